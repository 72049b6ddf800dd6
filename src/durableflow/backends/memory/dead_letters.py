"""Dead letters in memory, each with its instance."""

from __future__ import annotations

from collections.abc import Sequence

from durableflow.backends.base import DeadLetter, DeadLetterQuery
from durableflow.backends.memory.rows import Rows


class MemoryDeadLetters(Rows):
    """The part of `MemoryBackend` that keeps dead letters."""

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetter]:
        """See `Backend.dead_letters`."""
        found = [
            letter
            for instance in self._instances.values()
            for letter in instance.letters.values()
            if query.kind in (None, letter.kind)
            and query.name in (None, letter.name)
            and query.type_name in (None, letter.type_name)
            and query.instance_id in (None, letter.instance_id)
            and (query.after is None or (letter.at_us, letter.instance_id, letter.task) < query.after)
        ]
        found.sort(key=lambda letter: (letter.at_us, letter.instance_id, letter.task), reverse=True)
        return found[: query.limit]

    async def discard(self, letters: Sequence[tuple[str, int]]) -> int:
        """See `Backend.discard`."""
        self._check_seal()
        known = [self._instances.get(instance_id) for instance_id, _ in letters]
        return sum(
            instance is not None and instance.letters.pop(task, None) is not None
            for instance, (_, task) in zip(known, letters, strict=True)
        )

    def _write_letters(self, letters: Sequence[DeadLetter], redeemed: Sequence[str]) -> None:
        """Put letters by, and remove those of instances that are stalled no more."""
        instances = self._instances
        for letter in letters:
            if letter.instance_id in instances:
                instances[letter.instance_id].letters[letter.task] = letter
        for instance_id in redeemed:
            if instance_id in instances:
                instances[instance_id].letters.pop(0, None)
