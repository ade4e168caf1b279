"""Holds what clients saw, what the farm shows and what the store holds against the farm's promises, from outside.

The numbers are those of the promises: 1 nothing lost, 2 decided once, 3 published once, 4 fenced, 6 cancel is final,
9 same bytes, 10 books balance. Every finding is a sentence; no findings is the verdict.
"""
import collections
import hashlib
import json
import time

RANK = {"queued": 0, "in_progress": 1, "completed": 2, "failed": 2}
#: What stands for a job that is not there.
MISSING = {"status": "missing", "progress": 0, "error": None, "assets": None}
#: Two records of one millisecond may stand in either order.
SAME_MS = 1


class Findings:
    def __init__(self):
        self.checked, self.broken = collections.Counter(), []

    def hold(self, promise, holds, what):
        self.checked[promise] += 1
        if not holds:
            self.broken.append(f"promise {promise}: {what}")

    def verdict(self):
        return "held" if not self.broken else "broken"


def clients(log, ends, found):
    """What clients were told, in the order in which each was told it, against how it ended."""
    keys, last, cancelled = {}, {}, {}
    for event in log:
        job = event.get("job")
        if event["what"] == "acknowledged":
            known = keys.setdefault(event["key"], job)
            found.hold(1, known == job, f"one idempotency key made two jobs, {known} and {job}")
            found.hold(1, job in ends, f"{job} was acknowledged and is not there")
        elif event["what"] == "seen":
            now = event["video"]
            before = last.get(job)
            if before:
                text = f"{job}: {before['status']} {before['progress']} and then {now['status']} {now['progress']}"
                found.hold(2, RANK[before["status"]] <= RANK[now["status"]], text)
                found.hold(2, before["progress"] <= now["progress"], text)
                if RANK[before["status"]] == 2:
                    same = all(before[k] == now[k] for k in ("status", "assets", "error", "completed_at"))
                    found.hold(2, same, f"{job} was decided twice: {before} and {now}")
            found.hold(2, (now["progress"] == 100) == (now["status"] == "completed"), f"{job}: progress of {now}")
            last[job] = now
        elif event["what"] == "gone":
            found.hold(1, False, f"{job} was acknowledged and answered as unknown")
        elif event["what"] == "cancelled":
            cancelled[job] = True
    for job, video in ends.items():
        found.hold(1, RANK.get(video["status"]) == 2, f"{job} has not ended: {video['status']}")
        if job in last and RANK[last[job]["status"]] == 2:
            found.hold(2, last[job]["status"] == video["status"], f"{job} ended twice")
        if job in cancelled:
            code = (video["error"] or {}).get("code")
            found.hold(6, video["status"] == "failed" and code == "cancelled", f"{job} was cancelled and is {video}")
            found.hold(6, video["assets"] is None, f"{job} was cancelled and has a clip")
    return len(keys), len(cancelled)


def attempts(job, history, found):
    """One attempt of a shard at a time; each begins at the newest link; no link is made twice."""
    shards = collections.defaultdict(list)
    for attempt in history["attempts"]:
        shards[attempt["stage"], attempt["index"]].append(attempt)
    for (stage, _), tries in shards.items():
        for before, after in zip(tries, tries[1:]):
            text = f"{job} {stage}: attempts {before['attempt']} and {after['attempt']}"
            found.hold(4, before["attempt"] < after["attempt"], f"{text} in this order")
            found.hold(4, before["epoch"] <= after["epoch"], f"{text} of epochs that go back")
            ended = before["ended_at_ms"]
            found.hold(4, ended is not None and ended <= after["began_at_ms"] + SAME_MS, f"{text} at one time")
    latents = [a for a in history["artifacts"] if a["role"] == "latents"]
    numbers = [a["number"] for a in latents]
    found.hold(9, numbers == sorted(set(numbers)), f"{job}: latents {numbers} are not one of each step, in order")
    # What a store gave back damaged is made again.
    gone = any(attempt["cause"] == "artifact_missing" for attempt in history["attempts"])
    for attempt in history["attempts"]:
        if attempt["stage"] == "denoise":
            # An attempt that was re-attached has a number above that of what it stored before, and began before that.
            before = [a for a in latents if a["attempt"] < attempt["attempt"] and a["stored_at_ms"] <= attempt["began_at_ms"]]
            newest = max((a["number"] for a in before), default=0)
            found.hold(9, attempt["from_step"] == newest or gone and attempt["from_step"] < newest,
                       f"{job}: attempt {attempt['attempt']} began at step {attempt['from_step']}, {newest} were stored")


def workers(histories, found):
    """A connection of a worker runs one attempt at a time."""
    by_worker = collections.defaultdict(list)
    for job, history in histories.items():
        for attempt in history["attempts"]:
            if attempt["ended_at_ms"] is not None:
                by_worker[attempt["worker"]].append((attempt["began_at_ms"], attempt["ended_at_ms"], job))
    for worker, spans in by_worker.items():
        spans.sort()
        for before, after in zip(spans, spans[1:]):
            found.hold(4, before[1] <= after[0] + SAME_MS, f"worker {worker} ran {before} and {after} at one time")


def same_bytes(histories, found):
    """Jobs of one spec have the same prompt embeddings and latents, whatever became of them on the way."""
    known = {}
    for job, history in histories.items():
        video = history["video"]
        spec = tuple(json.dumps(video[k]) for k in ("prompt", "seconds", "render_size", "seed", "num_inference_steps"))
        for a in history["artifacts"]:
            if a["role"] in ("prompt", "latents"):
                place = (*spec, a["role"], a["number"])
                first = known.setdefault(place, (a["sha256"], job))
                found.hold(9, first[0] == a["sha256"], f"{job} and {first[1]} differ at {a['role']} {a['number']}")


def settled(folder, within=180):
    """Waits until nothing leaves the store any more: what nobody needs goes half a minute after its last use, and
    what was put a moment before that another half minute later."""
    count, since, end = None, time.monotonic(), time.monotonic() + within
    while time.monotonic() < end and time.monotonic() - since < 65:
        now = sum(1 for path in (folder / "artifacts").rglob("*") if path.is_file())
        if now != count:
            count, since = now, time.monotonic()
        time.sleep(2)


def store(folder, histories, found):
    """What is published is there, whole, once; what nobody needs any more is gone."""
    files = {path.name: path for path in (folder / "artifacts").rglob("*") if path.is_file()}
    wanted = set()
    for job, history in histories.items():
        video = history["video"]
        if video["status"] != "completed":
            found.hold(3, not (folder / "published" / f"{job}.json").exists(), f"{job} is published and {video['status']}")
            continue
        found.hold(3, (folder / "published" / f"{job}.json").exists(), f"{job} is completed and not published")
        made = {a["role"]: a["sha256"] for a in history["artifacts"] if a["role"] not in ("latents", "prompt")}
        # What was measured of a clip stays with it: its scores for another policy, its marks for a look-up.
        wanted |= {a["sha256"] for a in history["artifacts"] if a["role"] in ("scores", "marks")}
        for name, asset in video["assets"].items():
            digest = asset["sha256"]
            wanted.add(digest)
            role = {"video": "clip"}.get(name, name)
            found.hold(4, digest in [a["sha256"] for a in history["artifacts"] if a["role"] == role],
                       f"{job}: its {name} is of no attempt: {made}")
            there = digest in files and hashlib.sha256(files[digest].read_bytes()).hexdigest() == digest
            found.hold(10, there, f"{job}: its {name} {digest} is gone or damaged")
    left = sorted(set(files) - wanted)
    found.hold(10, not left, f"{len(left)} artifacts that nobody needs are still there, such as {left[:3]}")
    return len(files)


def books(histories, found):
    """GPU time that is billed is that of the attempts."""
    for job, history in histories.items():
        usage = history["video"].get("usage")
        if usage and len(history["attempts"]) < 64:
            spent = sum(attempt["gpu_ms"] for attempt in history["attempts"])
            told = round(usage["gpu_seconds"] * 1000)
            found.hold(10, spent == told, f"{job}: {told} ms are billed and {spent} ms were spent")


def check(farm, log, ends, folder=None):
    """All of it. `ends`: each job as its caller sees it at the end; `folder`: the store, if it is one."""
    found = Findings()
    made, cancelled = clients(log, ends, found)
    histories = {job: farm.history(job) for job, video in ends.items() if video is not MISSING}
    for job, history in histories.items():
        attempts(job, history, found)
    workers(histories, found)
    same_bytes(histories, found)
    files = store(folder, histories, found) if folder else None
    books(histories, found)
    tries = collections.Counter(a["cause"] or "done" for h in histories.values() for a in h["attempts"])
    codes = collections.Counter((v["error"] or {}).get("code", "completed") for v in ends.values())
    redone = sum(1 for h in histories.values() for a in h["attempts"] if a["stage"] == "denoise" and a["cause"])
    facts = {"jobs_acknowledged": made, "jobs_cancelled": cancelled, "ends": dict(codes), "attempts": dict(tries),
             "denoising_attempts_interrupted": redone, "files_in_store": files,
             "artifacts_ignored": sum(h["artifacts_ignored"] for h in histories.values())}
    return found, facts
