"""What each example says in the end; lines of its activities, which are indented, are left out."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "examples"
ENDS: Final = {
    "alerts": ["a lamp in a box", "alerts now: 0"],
    "circuit": ["10 orders are paid"],
    "debounce": ["one page for all edits: True"],
    "approval_token": ["a lamp: approved by Ada"],
    "changed_code": [
        "order-1: a lamp in a box, with a card",
        "order-2: a chair from shelf 7 in a box, with a card",
        "gift-1: a vase in a box",
        "gift-2: a vase in a box, a card in a box",
    ],
    "checkpoint": [
        "40 letters; letter 13, letter 26, letter 39 came back",
        "10 checkpoints, all events readable",
    ],
    "children": [
        "a box with a lamp arrived",
        "a box with a vase arrived",
        "order-1/soup is FAILED: it would leak",
        "packed first: one of them",
        "children: order-1/lamp, order-1/soup, order-1/vase, order-1/vase#2",
    ],
    "continue_as_new": [
        "24 readings, 3,000 in all, corrected to 2,500",
        "it began anew 11 times; what is replayed has 3 tasks",
    ],
    "dead_letters": [
        "parcel-1: 300 g to Ada, Harbour Street 4",
        "parcel-2: 500 g to Grace, Mill Lane 9",
        "parcel-3: 600 g to Konrad, Old Market 1",
    ],
    "events": ["a brass lamp goes to Ada for 45"],
    "fan_out": ["40 pages, 4,780 words"],
    "fork": ["offer-1: lamp for 48: too much", "offer-2: lamp for 48: it is a deal", "offer-3: lamp for 48: not today"],
    "order": [
        "order-1: parcel to Harbour Street 4",
        "order-2: refunded and put back, because it could not be sent",
    ],
    "many": ["10 orders in the archive, 10 cancelled"],
    "mail_queue": ["90 letters sent, one not, after 3 attempts"],
    "outbox": [
        "order-1: a lamp in a box, 950 paid",
        "order-2: a chair in a box, 1900 paid",
        "order-3: a vase in a box, 2850 paid",
    ],
    "requests": [
        "LookupError: there is no unicorn in this shop",
        "a look into the cart: 145",
        "chair, lamp, vase for 145",
    ],
    "retries": ["a lamp is 162.41 USD, says a list of 40 rows", "no price for a unicorn: KeyError"],
    "rewind": ["trip-1: a train and a room: paid 4200", "rewound 1 time"],
    "saga": [
        "to Lisbon with flight, hotel, car",
        "no trip to Venice, nothing is booked: there are no cars in Venice",
    ],
    "schedule": ["at least 4 reports: True", "one for each moment: True", "none left out: True, True"],
    "timers": ["no answer to 'who built this?' in time", "reminder 1", "reminder 2", "the trial is over"],
    "transactional": ["Ada has no 10000 left", "Ada has 400", "Ben has 600"],
}
