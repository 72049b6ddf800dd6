"""What a pod is given: environment, files, and where they lie on this machine.

Containers here have no file system of their own. What a pod mounts is written to folders of the pod's, and every place
of a mount that stands in its command, its arguments or its environment is replaced by the folder's: a manifest that
tells its program by the environment where its files are runs unchanged.
"""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from planekit.api import ApiError, Document
from planekit.events import Ask

ACCOUNT_PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"


class Missing(Exception):
    """Something that the pod refers to is not there (yet)."""


class Injection:
    """Finds and writes what one pod is given.

    Args:
        ask: as whom its node asks; comes back when there is an answer.
        folder: of the pod.
    """

    def __init__(self, ask: Ask, pod: Document, folder: Path) -> None:
        self._ask = ask
        self._pod = pod
        self._folder = folder
        self._namespace = pod["metadata"]["namespace"]

    # -- files ---------------------------------------------------------------------------------------------------------

    async def write_volumes(self) -> None:
        """Write all volumes.

        Raises:
            Missing: one that is not optional is not there.
        """
        for volume in self._pod["spec"].get("volumes", ()):
            folder = self._folder / "volumes" / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for place, data in (await self._files_of(volume)).items():
                file = folder / place
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)

    async def _files_of(self, volume: Document) -> dict[str, bytes]:
        match volume:
            case {"configMap": source}:
                return await self._from_map("configmaps", source["name"], source)
            case {"secret": source}:
                return await self._from_map("secrets", source["secretName"], source)
            case {"downwardAPI": source}:
                return {item["path"]: self._field(item["fieldRef"]).encode() for item in source["items"]}
            case {"projected": {"sources": sources}}:
                files = dict[str, bytes]()
                for source in sources:
                    files |= await self._projected(source)
                return files
            case {"emptyDir": _} | {"hostPath": _}:
                return {}
        kind = next(key for key in volume if key != "name")
        raise Missing(f'volume "{volume["name"]}": no plugin for {kind} on this node')

    async def _projected(self, source: Document) -> dict[str, bytes]:
        match source:
            case {"serviceAccountToken": wanted}:
                return {wanted["path"]: (await self._token(wanted)).encode()}
            case {"configMap": inner}:
                return await self._from_map("configmaps", inner["name"], inner)
            case {"secret": inner}:
                return await self._from_map("secrets", inner["name"], inner)
            case {"downwardAPI": inner}:
                return {item["path"]: self._field(item["fieldRef"]).encode() for item in inner.get("items", ())}
        raise Missing(f"no such source on this node: {source}")

    async def _token(self, wanted: Document) -> str:
        """Bound to the pod: worth nothing when that is gone. None is renewed: they live ten minutes at least."""
        metadata = self._pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        spec = {"boundObjectRef": bound, "expirationSeconds": wanted.get("expirationSeconds", 3_600)}
        spec |= {"audiences": [wanted["audience"]]} if wanted.get("audience") else {}
        account = self._pod["spec"].get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        token: str = (await self._ask("POST", path, {"spec": spec}))["status"]["token"]
        return token

    async def _from_map(self, kind: str, name: str, source: Document) -> dict[str, bytes]:
        found = await self._map(kind, name, is_optional=source.get("optional", False))
        items = source.get("items")
        if not items:
            return found
        missing = [item["key"] for item in items if item["key"] not in found and not source.get("optional")]
        if missing:
            raise Missing(f"references non-existent config key: {missing[0]}")
        return {item["path"]: found[item["key"]] for item in items if item["key"] in found}

    async def _map(self, kind: str, name: str, *, is_optional: bool) -> dict[str, bytes]:
        """What is in a ConfigMap or a Secret."""
        try:
            document = await self._ask("GET", f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except ApiError as error:
            # A node may not see what none of its pods refers to, or does not exist: then it is told 403 or 404.
            if error.status not in (403, 404):
                raise
            if is_optional:
                return {}
            raise Missing(f'{kind.removesuffix("s")} "{name}" not found') from None
        data, texts = document.get("data") or {}, document.get("binaryData") or {}
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in data.items()}
        encoded = {key: base64.b64decode(value) for key, value in texts.items()}
        return {key: value.encode() for key, value in data.items()} | encoded

    # -- environment ---------------------------------------------------------------------------------------------------

    async def environment_of(self, container: Document, base: Mapping[str, str]) -> dict[str, str]:
        """The environment of a container, in the words of the manifest.

        Raises:
            Missing: a key that is not optional is not there.
        """
        environment = dict(base)
        for source in container.get("envFrom", ()):
            prefix = source.get("prefix", "")
            for kind, reference in (("configmaps", "configMapRef"), ("secrets", "secretRef")):
                if inner := source.get(reference):
                    found = await self._map(kind, inner["name"], is_optional=inner.get("optional", False))
                    environment |= {prefix + key: value.decode() for key, value in found.items()}
        for variable in container.get("env", ()):
            value = await self._value_of(variable, container, environment)
            if value is not None:
                environment[variable["name"]] = value
        return environment

    async def _value_of(self, variable: Document, container: Document, known: Mapping[str, str]) -> str | None:
        match variable.get("valueFrom"):
            case None:
                return expanded(variable.get("value", ""), known)
            case {"fieldRef": reference}:
                return self._field(reference)
            case {"resourceFieldRef": reference}:
                section, _, resource = reference["resource"].partition(".")
                return str(container.get("resources", {}).get(section, {}).get(resource, "0"))
            case {"configMapKeyRef": reference}:
                return await self._key("configmaps", reference)
            case {"secretKeyRef": reference}:
                return await self._key("secrets", reference)
        raise Missing(f"no such source on this node: {variable}")

    async def _key(self, kind: str, reference: Document) -> str | None:
        name, key, is_optional = reference["name"], reference["key"], reference.get("optional", False)
        found = await self._map(kind, name, is_optional=is_optional)
        if key in found:
            return found[key].decode()
        if is_optional:
            return None
        raise Missing(f"couldn't find key {key} in {kind.removesuffix('s')} {self._namespace}/{name}")

    def _field(self, reference: Document) -> str:
        """A field of the pod, as "metadata.labels['app']"."""
        path = reference["fieldPath"]
        if indexed := re.fullmatch(r"(metadata\.(?:labels|annotations))\['(.+)'\]", path):
            return str(self._look(indexed[1]).get(indexed[2], ""))
        if path in ("status.podIP", "status.hostIP"):
            return "127.0.0.1"
        return str(self._look(path))

    def _look(self, path: str) -> Any:
        found: Any = self._pod
        for name in path.split("."):
            found = found.get(name) or {}
        return found or ""

    # -- places --------------------------------------------------------------------------------------------------------

    def places_of(self, container: Document, message_file: Path) -> dict[str, str]:
        """Where what a container sees lies on this machine."""
        places = {container.get("terminationMessagePath", "/dev/termination-log"): str(message_file)}
        on_host = {v["name"]: v["hostPath"]["path"] for v in self._pod["spec"].get("volumes", ()) if "hostPath" in v}
        for mount in container.get("volumeMounts", ()):
            name = mount["name"]
            folder = Path(on_host.get(name, self._folder / "volumes" / name)) / mount.get("subPath", "")
            places[mount["mountPath"].rstrip("/")] = str(folder)
        return places


def localized(text: str, places: Mapping[str, str]) -> str:
    """The text with all places of mounts replaced by those on this machine."""
    if not places:
        return text
    longest_first = sorted(places, key=len, reverse=True)
    pattern = rf"(?<![\w.-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])"
    return re.sub(pattern, lambda found: places[found[1]], text)


def expanded(text: str, known: Mapping[str, str]) -> str:
    """The text with $(NAME) replaced where NAME is known; $$(NAME) stays $(NAME)."""

    def replace(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return known.get(found[1], found[0])

    return re.sub(r"\$?\$\(([\w.-]+)\)", replace, text)


def base_environment(pod: Document, server: tuple[str, int], added: Mapping[str, str]) -> dict[str, str]:
    """What every container has: nothing of the tests' own environment but the way to programs."""
    host, port = server
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOSTNAME": pod["metadata"]["name"]}
    environment |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
    return environment | dict(added)


def memory_limit(container: Document) -> int | None:
    """In bytes."""
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    return None if limit is None else quantity(limit)


def quantity(text: str) -> int:
    """A quantity of the manifest as a number, as "64Mi"; fractions are rounded up."""
    units: Sequence[str] = ("k", "M", "G", "T", "P")
    with suppress(ValueError):
        if text.endswith("m"):
            return -(-int(text[:-1]) // 1_000)
        for power, unit in enumerate(units, 1):
            if text.endswith((f"{unit}i", f"{unit.upper()}i")):
                return int(float(text[:-2]) * 1_024**power)
            if text.endswith(unit):
                return int(float(text[:-1]) * 1_000**power)
    return int(float(text))
