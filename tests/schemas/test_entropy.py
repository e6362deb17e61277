"""The pool of random bytes: each byte is handed out once."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from schemas.entropy import EntropyPool, random_bytes


def _counting() -> EntropyPool:
    """Return a pool over 0, 1, 2... as numbers of four bytes."""
    numbers = count()
    return EntropyPool(
        lambda size: b"".join(
            next(numbers).to_bytes(4, "big") for _ in range(-(-size // 4))
        )[:size]
    )


@given(st.lists(st.integers(min_value=0, max_value=1_500), max_size=60))
def test_each_draw_has_its_length_and_bytes_of_its_own(sizes: list[int]) -> None:
    """Draws of whole numbers never repeat one, whatever their sizes."""
    pool = _counting()
    draws = [pool(4 * size) for size in sizes]
    numbers = [d[at : at + 4] for d in draws for at in range(0, len(d), 4)]

    assert [4 * size for size in sizes] == [len(d) for d in draws]
    assert len(numbers) == len(set(numbers))


def test_threads_never_share_bytes() -> None:
    """Draws made at once in many threads are all different."""
    pool = _counting()
    with ThreadPoolExecutor(8) as threads:
        draws = list(threads.map(lambda _: pool(16), range(20_000)))

    assert len(draws) == len(set(draws))


def test_a_fork_draws_other_bytes_than_its_parent() -> None:
    """What a parent has drawn ahead is not handed out again by its child."""
    random_bytes(8)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, random_bytes(16))
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(read, 16)
    os.close(read)
    os.close(write)

    assert drawn != random_bytes(16)
