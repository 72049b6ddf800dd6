"""Random programs, drawn by dice: a seed is all there is to say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from durableflow.testing.simulation.language import (
    AT_LAST,
    BEFORE_TIDY,
    BLOCK_MAX,
    BLOCK_SHARE,
    BLOCK_WORDS,
    DEPTH_MAX,
    HEAD_SHARE,
    HEADS,
    OPENINGS,
    PLAIN_WORDS,
    TIDY,
    TIDY_SHARE,
    Block,
    Program,
    Word,
)

_PLAIN_WEIGHTS = [word.weight for word in PLAIN_WORDS]
_BLOCK_WEIGHTS = [word.weight for word in BLOCK_WORDS]
_HEAD_WEIGHTS = [word.weight for word in HEADS]


def draw_program(dice: random.Random) -> Program:
    """A program, small enough to be read."""
    head = [_draw_one(dice, HEADS, _HEAD_WEIGHTS, 0)] if dice.random() < HEAD_SHARE else []
    if dice.random() < TIDY_SHARE:
        parts = [dice.choice(TIDY) for _ in range(dice.randint(2, 8))]
        return [*head, *BEFORE_TIDY, *(_spell(dice, word, DEPTH_MAX) for part in parts for word in part)]
    return [*head, *dice.choice(OPENINGS), *_draw_block(dice, DEPTH_MAX, 1), *AT_LAST]


def _draw_block(dice: random.Random, depth: int, least: int) -> Program:
    return [_draw_instruction(dice, depth) for _ in range(dice.randint(least, BLOCK_MAX))]


def _draw_instruction(dice: random.Random, depth: int) -> list[Any]:
    if depth and dice.random() < BLOCK_SHARE:
        return _draw_one(dice, BLOCK_WORDS, _BLOCK_WEIGHTS, depth)
    return _draw_one(dice, PLAIN_WORDS, _PLAIN_WEIGHTS, depth)


def _draw_one(dice: random.Random, words: Sequence[Word], weights: Sequence[int], depth: int) -> list[Any]:
    (word,) = dice.choices(words, weights)
    return _spell(dice, word, depth)


def _spell(dice: random.Random, word: Word, depth: int) -> list[Any]:
    def block(operand: Block) -> Program:
        return _draw_block(dice, 0 if operand.is_flat else depth - 1, operand.least)

    return word.spell(dice.randrange(word.spellings), block)
