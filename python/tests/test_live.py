"""Publishers and followers: on files, and on an object store where there is one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pulse_codec as pulse
import pytest
from conftest import KINDS, all_raw, as_kind

#: Soon enough for a test, and no busy loop.
POLL: dict[str, Any] = {"poll": 0.02, "poll_max": 0.1}


def model(step: int, size: int = 50_000) -> dict[str, Any]:
    """The weights after so many steps: the same whoever asks."""
    bits = np.random.default_rng(0).integers(0, 1 << 16, size, dtype=np.uint16)
    for number in range(1, step + 1):
        changed = np.random.default_rng(number).integers(0, size, size // 100)
        bits[changed] += 1
    return {"w": bits, "b": np.full(7, step, np.float32)}


#: The same for processes that tests start.
MODEL = '''
import sys, numpy as np, pulse_codec as pulse
def model(step, size=50_000):
    bits = np.random.default_rng(0).integers(0, 1 << 16, size, dtype=np.uint16)
    for number in range(1, step + 1):
        changed = np.random.default_rng(number).integers(0, size, size // 100)
        bits[changed] += 1
    return {"w": bits, "b": np.full(7, step, np.float32)}
'''

TRAINER = MODEL + '''
import time
feed, last = sys.argv[1], int(sys.argv[2])
try:
    with pulse.Publisher(feed, anchor_every=10) as publisher:
        head = publisher.head
        for step in range(0 if head is None else head.step + 1, last + 1):
            publisher.publish(model(step), step=step)
            time.sleep(0.03)
        publisher.end()
except pulse.Ended:
    pass
'''


def stores() -> list[str]:
    """What feeds are tested on; a word about what is missing."""
    if "PULSE_TEST_S3" in os.environ:
        return ["files", "s3"]
    notice = "PULSE_TEST_S3 is not set: start a server with scripts/servers.py run s3 -- python/test"
    assert "CI" not in os.environ, notice
    print(f"\nNOT RUN: {notice}", file=sys.__stderr__, flush=True)
    return ["files"]


@pytest.fixture(params=stores())
def feed(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a feed that nobody has published to."""
    if request.param == "s3":
        return f"{os.environ['PULSE_TEST_S3']}/python-{uuid.uuid4().hex}"
    return str(tmp_path / "feed")


def publish(feed: str, steps: range, **options: Any) -> list[pulse.Published]:
    with pulse.Publisher(feed, **options) as publisher:
        return [publisher.publish(model(step), step=step) for step in steps]


def data(feed: str | Path, version: int) -> Path:
    """The file with the data of a version."""
    (found,) = Path(feed).glob(f"data/{version:020}*")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_follower_has_what_the_trainer_has(kind: str, feed: str) -> None:
    def weights(step: int) -> dict[str, Any]:
        return {name: as_kind(kind, array) for name, array in model(step).items()}

    followed = weights(0)
    place = {name: id(tensor) for name, tensor in followed.items()}
    with pulse.Publisher(feed) as publisher:
        first = publisher.publish(weights(0), step=0)
        assert (first.version, first.step, first.is_anchor, first.changes) == (0, 0, True, None)
        with pulse.Follower(feed, weights=followed, **POLL) as follower:
            assert follower.next(timeout=0) is None, "what is held was found out"
            for step in range(1, 6):
                published = publisher.publish(weights(step), step=step)
                assert published.digest == pulse.digest(weights(step)) and not published.is_anchor
                assert published.changes is not None and 0 < published.changes <= 507
                version = follower.next(timeout=30)
                assert version is not None
                assert (version.version, version.step, version.digest) == (step, step, published.digest)
                assert not version.is_whole and 0 < version.bytes < 10_000 and version.seconds >= 0
                before = all_raw(followed)
                indices = {name: indices for name, indices, _ in version.prepare().sparse()}
                assert indices.keys() == {"w", "b"} and all_raw(followed) == before
                assert version.commit(verify=step % 2 == 0).target == published.digest
                assert all_raw(followed) == all_raw(weights(step))
            head = follower.head
            assert head is not None and publisher.head is not None
            assert head.digest == publisher.head.digest and head.step == 5 and not head.ended
        publisher.end()
    assert {name: id(tensor) for name, tensor in followed.items()} == place


def test_who_joins_late_or_has_nothing(feed: str) -> None:
    published = publish(feed, range(25), anchor_every=10)
    assert [it.version for it in published if it.is_anchor] == [0]
    late = model(0)
    late["w"][:] = 0  # of no version
    follower = pulse.Follower(feed, weights=late, **POLL)
    version = follower.next(timeout=30)
    assert version is not None and version.is_whole and version.version == 24
    version.commit()
    assert pulse.digest(late) == published[-1].digest
    # Some versions behind: a way of several patches.
    behind = model(21)
    version = pulse.Follower(feed, weights=behind, **POLL).next(timeout=30)
    assert version is not None and not version.is_whole
    version.commit()
    assert pulse.digest(behind) == published[-1].digest
    # With nothing: new memory, which is followed into.
    follower = pulse.Follower(feed, **POLL)
    version = follower.next(timeout=30)
    assert version is not None and follower.weights is None
    with pytest.raises(ValueError, match="no weights"):
        version.commit()
    made = version.load(like="numpy")
    assert all_raw(made) == all_raw(model(24)) and follower.weights is made
    publish(feed, range(25, 26))
    version = follower.next(timeout=30)
    assert version is not None
    version.commit()
    assert all_raw(made) == all_raw(model(25))


def test_an_older_version_can_be_asked_for(feed: str) -> None:
    publish(feed, range(4))
    weights = model(3)
    versions = [(version.version, version.commit().target) for version in pulse.Follower(feed, weights=weights, at=2, **POLL)]
    assert versions == [(2, pulse.digest(model(2)))] and all_raw(weights) == all_raw(model(2))
    assert list(pulse.Follower(feed, weights=weights, at=2, **POLL)) == []


def test_what_was_not_committed_is_looked_for_again(feed: str) -> None:
    publish(feed, range(1))
    weights = model(0)
    follower = pulse.Follower(feed, weights=weights, **POLL)
    publish(feed, range(1, 2))
    for _ in range(2):
        version = follower.next(timeout=30)
        assert version is not None and version.version == 1
    publish(feed, range(2, 3))
    version = follower.next(timeout=30)
    assert version is not None and version.version == 2 and pulse.digest(weights) == pulse.digest(model(0))
    version.commit()
    assert pulse.digest(weights) == pulse.digest(model(2))


def test_of_two_versions_side_by_side_only_one_is_written(feed: str) -> None:
    publish(feed, range(1))
    weights = model(0)
    follower = pulse.Follower(feed, weights=weights, **POLL)
    for first in (0, 1):
        versions = []
        for step in (2 * first + 1, 2 * first + 2):
            publish(feed, range(step, step + 1))
            version = follower.next(timeout=30)
            assert version is not None and version.version == step
            versions.append(version)
        # Both were made of the same weights, so what the other one changes is nothing to them any more.
        assert versions[first].commit().target == versions[first].digest
        with pytest.raises(ValueError, match="next one"):
            versions[1 - first].commit()
        with pytest.raises(ValueError):
            versions[first].commit()
        assert pulse.digest(weights) == versions[first].digest
        version = follower.next(timeout=0)
        if version is not None:
            version.commit()
        assert pulse.digest(weights) == versions[1].digest


def test_weights_that_somebody_wrote_to(feed: str) -> None:
    publish(feed, range(2))
    weights = model(1)
    follower = pulse.Follower(feed, weights=weights, **POLL)
    assert follower.next(timeout=0) is None
    # Between two versions: found, and mended with what there is.
    weights["w"][3] ^= 1
    publish(feed, range(2, 3))
    version = follower.next(timeout=30)
    assert version is not None and version.is_whole
    version.commit()
    assert pulse.digest(weights) == pulse.digest(model(2))
    # Between prepare and commit: found by verify.
    publish(feed, range(3, 4))
    version = follower.next(timeout=30)
    assert version is not None
    weights["w"][3] ^= 1
    with pytest.raises(pulse.TargetMismatch):
        version.commit(verify=True)
    version = follower.next(timeout=30)
    assert version is not None and version.is_whole
    version.commit(verify=True)
    assert pulse.digest(weights) == pulse.digest(model(3))


def test_weights_of_another_model(feed: str) -> None:
    publish(feed, range(1))
    weights = {"other": np.zeros(3, "f4")}
    with pytest.raises(pulse.NotInPlace):
        pulse.Follower(feed, weights=weights, **POLL).next(timeout=30)
    assert not weights["other"].any()


def test_a_trainer_that_starts_again(feed: str) -> None:
    publish(feed, range(2))
    # With nothing it fetches; with the old weights it need not; with none it starts anew.
    fetched = publish(feed, range(2, 3))[0]
    known = publish(feed, range(3, 4), base=model(2))[0]
    anew = publish(feed, range(4, 5), base=None)[0]
    wrong = publish(feed, range(5, 6), base=model(1))[0]
    assert [it.is_anchor for it in (fetched, known, anew, wrong)] == [False, False, True, True]
    assert [it.version for it in (fetched, known, anew, wrong)] == [2, 3, 4, 5]
    weights = model(0)
    version = pulse.Follower(feed, weights=weights, **POLL).next(timeout=30)
    assert version is not None
    assert version.commit().target == pulse.digest(model(5)) == wrong.digest


def test_a_trainer_that_starts_again_where_the_data_is_gone(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    publish(str(feed), range(3))
    for place in (feed / "data").iterdir():
        place.unlink()
    (published,) = publish(str(feed), range(3, 4))
    assert published.is_anchor and "could not be fetched" in published.warnings[0]
    weights = model(0)
    version = pulse.Follower(str(feed), weights=weights, **POLL).next(timeout=30)
    assert version is not None and version.commit().target == pulse.digest(model(3))


def test_a_patch_that_ranks_have_joined(feed: str) -> None:
    base, target = model(0), model(1)
    parts = []
    for rows in (slice(0, 20_000), slice(20_000, 50_000)):
        part_of = {"w": pulse.Slice((50_000,), rows.start)}
        mine = {"w": base["w"][rows]}, {"w": target["w"][rows]}
        if rows.start == 0:
            mine[0]["b"], mine[1]["b"] = base["b"], target["b"]
        parts.append(pulse.diff(*mine, part_of=part_of))
    patch = pulse.join(parts, step=1)
    with pulse.Publisher(feed) as publisher:
        publisher.publish(pulse.snapshot(base), step=0)
        published = publisher.publish(patch, step=1)
        assert (published.version, published.digest) == (1, pulse.digest(target))
        with pytest.raises(pulse.OtherBase) as caught:
            publisher.publish(patch, step=2)
        error = caught.value
        assert (error.version, error.expected, error.found) == (1, pulse.digest(target), pulse.digest(base))
        assert error.kind == "base" and error.advice
        # From weights again: the newest version is fetched.
        assert not publisher.publish(model(2), step=2).is_anchor
    version = pulse.Follower(feed, weights=base, **POLL).next(timeout=30)
    assert version is not None and version.commit().target == pulse.digest(model(2))


def test_the_second_publisher_fences_the_first(feed: str) -> None:
    first = pulse.Publisher(feed)
    first.publish(model(0), step=0)
    second = pulse.Publisher(feed)
    second.claim()
    for _ in range(2):
        with pytest.raises(pulse.Fenced) as caught:
            first.publish(model(1), step=1)
        fenced = caught.value
        assert (fenced.version, fenced.kind, fenced.is_passing) == (1, "fenced", False)
        assert fenced.other_epoch > fenced.epoch and fenced.writer != fenced.other and fenced.advice
    assert second.publish(model(1), step=1).version == 2
    assert first.run == second.run and len(first.run) == 32


def test_a_run_that_has_ended(feed: str) -> None:
    with pytest.raises(pulse.NoFeed):
        pulse.Follower(feed)
    with pulse.Publisher(feed) as publisher:
        with pytest.raises(ValueError, match="cannot end"):
            publisher.end()
        publisher.publish(model(0), step=0)
        publisher.end()
    with pytest.raises(pulse.Ended) as caught:
        pulse.Publisher(feed)
    assert caught.value.version == 1
    weights = model(0)
    weights["w"][0] ^= 1
    follower = pulse.Follower(feed, weights=weights, **POLL)
    assert [version.commit().target for version in follower] == [pulse.digest(model(0))]
    with pytest.raises(pulse.Ended):
        follower.next()


def test_keys(feed: str, tmp_path: Path) -> None:
    key, other = (pulse.keygen(tmp_path / name) for name in ("key", "other"))
    with pytest.raises(FileExistsError):
        pulse.keygen(tmp_path / "key")
    with pulse.Publisher(feed, key=tmp_path / "key") as publisher:
        publisher.publish(model(0), step=0)
        publisher.hand_over(tmp_path / "other")
        publisher.publish(model(1), step=1)
        publisher.publish(model(2), step=2)
    weights = model(0)
    follower = pulse.Follower(feed, weights=weights, trust=key, **POLL)
    version = follower.next(timeout=30)
    assert version is not None and version.commit().target == pulse.digest(model(2))
    assert follower.key == other
    with pytest.raises(pulse.NotTrusted) as caught:
        pulse.Follower(feed, trust=pulse.keygen(tmp_path / "third")).next(timeout=30)
    assert caught.value.kind == "signature" and caught.value.object
    with pytest.raises(pulse.FeedError):
        pulse.Publisher(feed)
    with pytest.raises(pulse.BadKey):
        pulse.Publisher(feed, key=tmp_path / "key")
    with pytest.raises(ValueError):
        pulse.Follower(feed, trust="xyz")
    # The same publisher goes on with the key that it has handed over to, also when it fetches its base.
    assert publish(feed, range(3, 4), key=tmp_path / "other")[0].version == 3


def test_what_was_tampered_with_is_not_served(tmp_path: Path) -> None:
    feed = str(tmp_path / "feed")
    publish(feed, range(3))
    place = data(feed, 2)
    whole = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    events: list[dict[str, Any]] = []
    weights = model(1)
    follower = pulse.Follower(feed, weights=weights, on_event=events.append, **POLL)
    assert follower.next(timeout=2) is None
    assert pulse.digest(weights) == pulse.digest(model(1))
    refused = [event["error"] for event in events if event["event"] == "refused"]
    assert any(isinstance(error, pulse.BadData) and error.object.startswith("data/") for error in refused), events
    assert all(error.is_passing for error in refused)
    place.write_bytes(whole)
    version = follower.next(timeout=60)
    assert version is not None and version.commit().target == pulse.digest(model(2))
    assert {"planned", "waiting"} <= {event["event"] for event in events} | {"waiting"}


def test_a_feed_that_is_rolled_back(tmp_path: Path) -> None:
    feed, state = tmp_path / "feed", tmp_path / "state.json"
    publish(str(feed), range(2))
    shutil.copytree(feed, tmp_path / "old")
    publish(str(feed), range(2, 4))
    weights = model(0)
    version = pulse.Follower(str(feed), weights=weights, state=state, **POLL).next(timeout=30)
    assert version is not None
    assert not state.exists()
    version.commit()
    assert state.exists()
    follower = pulse.Follower(str(feed), weights=weights, state=state, **POLL)
    assert follower.next(timeout=0) is None
    shutil.rmtree(feed)
    (tmp_path / "old").rename(feed)
    with pytest.raises(pulse.RolledBack) as caught:
        pulse.Follower(str(feed), weights=weights, state=state, **POLL)
    assert (caught.value.mark, caught.value.head, caught.value.is_passing) == (3, 1, True)


def test_ctrl_c_stops_what_waits(feed: str) -> None:
    publish(feed, range(1))
    weights = model(0)
    follower = pulse.Follower(feed, weights=weights, poll=60, poll_max=60)
    for wait in (lambda: follower.next(), lambda: next(follower), lambda: follower.next(timeout=60)):
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert time.monotonic() - started < 3
        timer.join()
    publish(feed, range(1, 2))
    follower = pulse.Follower(feed, weights=weights, **POLL)
    version = follower.next(timeout=30)
    assert version is not None and version.commit().target == pulse.digest(model(1)), "it can be used again"


def test_what_progress_raises_ends_the_call(feed: str) -> None:
    class Stop(Exception):
        pass

    def stop(_: int) -> None:
        raise Stop

    big = {"w": np.random.default_rng(0).integers(0, 1 << 16, 100_000_000, dtype=np.uint16)}
    with pulse.Publisher(feed, threads=1) as publisher:
        with pytest.raises(Stop):
            publisher.publish(big, step=0, progress=stop)
        assert publisher.head is None
        # The same object goes on.
        assert publisher.publish(model(0), step=0).version == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_does_not_hang(tmp_path: Path) -> None:
    script = MODEL + '''
import os
publisher = pulse.Publisher("feed")
publisher.publish(model(0), step=0)
follower = pulse.Follower("feed", weights=model(0))
child = os.fork()
if child == 0:
    refused = 0
    for call in (lambda: publisher.publish(model(1)), lambda: follower.next(timeout=1)):
        try:
            call()
        except RuntimeError as error:
            assert "forked" in str(error)
            refused += 1
    assert refused == 2
    assert pulse.Follower("feed").next(timeout=20).load(like="numpy")["b"][0] == 0
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert publisher.publish(model(1), step=1).version == 1
'''
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=tmp_path)


def test_a_trainer_that_is_killed_at_random(feed: str) -> None:
    last, rng = 80, np.random.default_rng(7)
    stop = threading.Event()
    kills = 0

    def train() -> None:
        nonlocal kills
        while not stop.is_set():
            process = subprocess.Popen([sys.executable, "-c", TRAINER, feed, str(last)])
            try:
                # Some die before they have begun, some after many versions; in the end one comes through.
                wait = float(rng.uniform(0.3, 1.2)) if kills < 8 else 120.0
                assert process.wait(timeout=wait) == 0
                return
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    digests = {step: pulse.digest(model(step)) for step in range(last + 1)}
    weights, seen = model(0), []
    weights["w"][:] = 1
    try:
        until = time.monotonic() + 120
        while True:
            try:
                follower = pulse.Follower(feed, weights=weights, **POLL)
                break
            except pulse.NoFeed:
                assert time.monotonic() < until
                time.sleep(0.05)
        for version in follower:
            version.commit()
            assert version.step is not None
            assert pulse.digest(weights) == version.digest == digests[version.step]
            seen.append(version.step)
            assert time.monotonic() < until
    finally:
        stop.set()
        trainer.join()
    assert all_raw(weights) == all_raw(model(last))
    assert seen == sorted(set(seen)), seen
    assert kills > 0


def test_asyncio(feed: str) -> None:
    async def trainer() -> None:
        async with pulse.aio.Publisher(feed) as publisher:
            for step in range(6):
                published = await publisher.publish(model(step), step=step)
                assert published.version == step
                await asyncio.sleep(0.02)
            head = await publisher.head()
            assert head is not None and head.step == 5
            await publisher.end()

    async def follow(weights: dict[str, Any], steps: list[int]) -> None:
        while not steps:
            try:
                async with pulse.aio.Follower(feed, weights=weights, **POLL) as follower:
                    async for version in follower:
                        assert version.step is not None
                        applied = await version.commit()
                        assert applied.target == version.digest
                        steps.append(version.step)
            except pulse.NoFeed:
                await asyncio.sleep(0.02)

    async def main() -> None:
        all_weights = [model(0) for _ in range(3)]
        for weights in all_weights:
            weights["w"][0] ^= 1
        steps: list[list[int]] = [[] for _ in all_weights]
        await asyncio.gather(trainer(), *map(follow, all_weights, steps))
        for weights, seen in zip(all_weights, steps, strict=True):
            assert seen == sorted(seen) and seen[-1] == 5
            assert pulse.digest(weights) == pulse.digest(model(5))

    asyncio.run(main())


def test_a_task_that_is_cancelled_stops_waiting(feed: str) -> None:
    publish(feed, range(1))

    async def main() -> None:
        weights = model(0)
        async with pulse.aio.Follower(feed, weights=weights, poll=60, poll_max=60) as follower:
            for _ in range(2):
                task = asyncio.create_task(follower.next())
                await asyncio.sleep(0.3)
                started = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - started < 3
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(follower.next(), 0.3)
            assert await follower.next(timeout=0.1) is None, "it can be used again"

    asyncio.run(main())


def test_other_threads_run_while_one_waits(feed: str) -> None:
    publish(feed, range(1))
    weights = model(0)
    follower = pulse.Follower(feed, weights=weights, **POLL)
    ticks = 0
    waiter = threading.Thread(target=lambda: follower.next(timeout=1.0))
    waiter.start()
    while waiter.is_alive():
        time.sleep(0.01)
        ticks += 1
    assert ticks > 30
    # Two at once are refused, neither hangs.
    waiter = threading.Thread(target=lambda: follower.next(timeout=1.0))
    waiter.start()
    time.sleep(0.3)
    with pytest.raises(RuntimeError, match="another thread"):
        follower.next(timeout=0)
    waiter.join()


def test_looking_after_a_feed(feed: str, tmp_path: Path) -> None:
    publish(feed, range(12), anchor_every=5)
    found = pulse.feed.status(feed)
    assert found["head"].version == 11 and found["head"].digest == pulse.digest(model(11))
    assert found["key"] is None and found["expires"] > found["now"] >= found["seen"]
    assert [(it.version, it.step) for it in pulse.feed.log(feed, first=3, last=5)] == [(3, 3), (4, 4), (5, 5)]
    audit = pulse.feed.verify(feed)
    assert (audit["records"], audit["problems"]) == (12, [])
    made = pulse.feed.compact(feed, spans=[4])
    assert made and all(it["version"] - it["start"] == 4 for it in made)
    mirror = str(tmp_path / "mirror")
    assert pulse.feed.mirror(feed, mirror)["records"] == 12
    weights = model(3)
    version = pulse.Follower(mirror, weights=weights, **POLL).next(timeout=30)
    assert version is not None and version.commit().target == pulse.digest(model(11))
    assert pulse.feed.prune(feed, anchors=1, grace=0)["objects"] > 0
    data(mirror, 7).unlink()
    (problem,) = pulse.feed.verify(mirror)["problems"]
    assert isinstance(problem, pulse.FeedError) and problem.kind == "data"
    with pytest.raises(pulse.NoFeed):
        pulse.feed.status(str(tmp_path / "nothing"))
