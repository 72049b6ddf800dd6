"""What every backend must do, as tests: the page `backends/base.py` made executable.

Whoever writes a backend subclasses this in a test module, and pytest does the rest::

    class TestMine(BackendContract):
        def backend(self, folder: Path) -> Backend:
            return MyBackend(folder / "store")

The tests need nothing but pytest's `tmp_path`: each runs an event loop of its own.
"""

from durableflow.testing.contract.alerts import AlertContract
from durableflow.testing.contract.arriving import ArrivingContract
from durableflow.testing.contract.circuits import CircuitContract
from durableflow.testing.contract.commits import CommitContract
from durableflow.testing.contract.fleets import FleetContract
from durableflow.testing.contract.keeping import KeepingContract
from durableflow.testing.contract.leases import LeaseContract
from durableflow.testing.contract.letters import LetterContract
from durableflow.testing.contract.loading import LoadingContract
from durableflow.testing.contract.looking import LookingContract
from durableflow.testing.contract.moving import MovingContract
from durableflow.testing.contract.others import OthersContract
from durableflow.testing.contract.queues import QueueContract
from durableflow.testing.contract.relaying import RelayContract
from durableflow.testing.contract.schedules import ScheduleContract
from durableflow.testing.contract.sending import SendingContract
from durableflow.testing.contract.server_leases import FleetServerLeaseContract, ServerLeaseContract
from durableflow.testing.contract.servers import ServerContract
from durableflow.testing.contract.store import ODD_IDS, a_change, a_row, an_instance, refused
from durableflow.testing.contract.tasks import TaskContract
from durableflow.testing.contract.tokens import TokenContract
from durableflow.testing.contract.transacting import TransactingContract
from durableflow.testing.contract.windows import WindowContract

__all__ = ["ODD_IDS", "BackendContract", "FleetBackendContract", "a_change", "a_row", "an_instance", "refused"]


class _EveryBackend(
    CommitContract,
    TransactingContract,
    LoadingContract,
    SendingContract,
    LookingContract,
    KeepingContract,
    ArrivingContract,
    LetterContract,
    OthersContract,
    ScheduleContract,
    CircuitContract,
    AlertContract,
    WindowContract,
    MovingContract,
    RelayContract,
    TaskContract,
    ServerContract,
    QueueContract,
    TokenContract,
):
    """What holds whoever owns the instances."""


class BackendContract(LeaseContract, ServerLeaseContract, _EveryBackend):
    """Of a store that has one worker at a time. Subclass it and say how to make a backend; see above."""


class FleetBackendContract(FleetContract, FleetServerLeaseContract, _EveryBackend):
    """Of a store whose instances many workers share."""
