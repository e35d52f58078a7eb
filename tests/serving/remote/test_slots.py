"""Slots: no memory is used twice, and none is lost."""

import fcntl
import mmap
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.base.errors import QueueFull
from serving.remote.records import BadRecord
from serving.remote.slots import MappedSlab, Slab, Slots, SlotState, sealed_memory
from serving.remote.tensors import PAGE

LIMIT = 64 * PAGE


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots(LIMIT)
    yield made
    made.close()


@given(st.lists(st.tuples(st.sampled_from("taker"), st.integers(0, 20)), max_size=60))
def test_every_slot_is_free_filling_or_lent_and_in_one_hand(steps: list[tuple[str, int]]) -> None:
    slabs: dict[int, Slab] = {}
    slots = Slots(LIMIT)
    slots.watch(lambda slab: slabs.update({slab.number: slab}), _remover(slabs))
    held = []
    for step, number in steps:
        if step in "ta":
            try:
                held.append(slots.take(1 + number * PAGE // 2))
            except QueueFull:
                assert slots.bytes + PAGE * (1 + number) > LIMIT or number * PAGE // 2 > LIMIT
        elif held:
            slot = held[number % len(held)]
            if step == "k" and slot.state is SlotState.FILLING:
                slots.lend(slot)
            elif step == "e" and slot.state is SlotState.LENT:
                slots.reclaim(slot)
            elif step == "r":
                held.remove(slot)
                slots.free(slot)
        states = Counter(slot.state for slot in held)
        free = [slot for slots_of in slots._free.values() for slot in slots_of]
        assert {slot.state for slot in free} <= {SlotState.FREE}
        assert states[SlotState.FREE] == 0
        total = sum(slab.count for slab in slots.slabs.values())
        assert total == len(free) + states[SlotState.FILLING] + states[SlotState.LENT]
        places = [(slot.slab.number, slot.offset) for slot in [*held, *free]]
        assert len(set(places)) == len(places)
        assert slabs == slots.slabs
        assert slots.bytes == sum(s.size * s.count for s in slabs.values()) <= LIMIT
    slots.close()


def _remover(slabs: dict[int, Slab]):  # type: ignore[no-untyped-def]
    def removed(slab: Slab) -> None:
        del slabs[slab.number]

    return removed


def test_slots_begin_on_pages_and_take_a_quarter_more_at_most(slots: Slots) -> None:
    for size in (1, PAGE, PAGE + 1, 9 * PAGE, 11 * PAGE, 33 * PAGE - 5):
        slot = slots.take(size)
        assert slot.offset % PAGE == 0
        assert size <= slot.slab.size <= max(PAGE, 1.25 * (size + PAGE))
        slots.free(slot)


def test_a_generation_is_never_used_again(slots: Slots) -> None:
    slot = slots.take(10)
    slots.lend(slot)
    first = slot.generation
    slots.free(slot)
    again = slots.take(10)
    assert again is slot
    slots.lend(again)
    assert again.generation == first + 1


def test_neither_side_can_take_memory_from_below_the_other(slots: Slots) -> None:
    slab = slots.take(10).slab
    with pytest.raises(PermissionError):
        os.ftruncate(slab.file, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(slab.file, 1 << 30)


def test_a_file_that_is_no_slab_is_refused() -> None:
    sealed = sealed_memory("test", 8 * PAGE)
    open_file = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(open_file, 8 * PAGE)
    plain = os.open("/dev/zero", os.O_RDWR)
    try:
        MappedSlab(sealed, 2 * PAGE, 4)
        for file, size, count in (
            (sealed, 2 * PAGE, 5),
            (sealed, 0, 0),
            (sealed, 64, 8 * PAGE // 64),
            (sealed, 1 << 31, 1 << 31),
            (open_file, 2 * PAGE, 4),
            (plain, 2 * PAGE, 4),
            (1 << 20, 2 * PAGE, 4),
        ):
            with pytest.raises(BadRecord):
                MappedSlab(file, size, count)
    finally:
        for file in (sealed, open_file, plain):
            os.close(file)


def test_memory_that_one_side_writes_is_read_by_the_other(slots: Slots) -> None:
    slot = slots.take(10)
    slab = MappedSlab(slot.slab.file, slot.slab.size, slot.slab.count)
    slot.slab.memory[slot.offset : slot.offset + 4] = b"here"
    assert slab.memory[slot.offset : slot.offset + 4] == b"here"
    assert isinstance(slab.memory, mmap.mmap)
    assert fcntl.fcntl(slot.slab.file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
