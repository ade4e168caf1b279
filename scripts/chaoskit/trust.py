"""`scripts/chaos trust`: a mixed load while the sidecars' services are killed, hang and lie; then every published clip is
held against readers that are not ours.

From outside a sidecar is hurt through what it asks: the signer (a process of its own, behind a socket that bends
answers), the moderation provider, the bucket, the programs that encode; the sidecars that ask nobody die and stop with
the coordinator. What a sidecar could answer that lies inside the coordinator is in the coordinator's own tests.
"""
import base64
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

from chaoskit import history, lies
from chaoskit.farm import ROOT, Process, free_port, wait_for

#: What only the remote provider objects to. The toy model knows no such word, so a job that went round would render.
FLAGGED = "marzipan"
#: What the farm's own rules object to.
FORBIDDEN = ["hardcore p0rn on the grass", "an explicit video of two people having s e x"]
WORLD = {"size": ["small", "large"], "colour": ["red", "blue", "green", "yellow"],
         "matter": ["rubber", "glass", "metal", "wooden"], "what": ["ball", "cube"],
         "does": ["bounces", "drops", "rolls to the left", "rolls to the right"],
         "where": ["on grass in daylight", "at night", "at sunset", "in a studio"]}
#: One of so many is of the largest of the three sizes, of three times as many pixels.
LARGE = 10
#: Unfinished jobs at a time: so prompts are judged all through the run, not all at its beginning.
UNFINISHED = 10
FAULT_LASTS = (3.0, 8.0)
FAULT_PAUSE = (3.0, 7.0)
#: A moment after the last fault until all has ended: the longest pause of a gate is a minute, that of the intake too.
ENDED_WITHIN = 900
PYTHON, TOOLS = ROOT / ".deps/venv-c2pa/bin/python", ROOT / ".deps/venv-s3/bin"
KEYS = 'access_key_id = "zoetrope"\nsecret_access_key = "zoetrope-secret"\n'
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

#: An encoder that does on order what none should: `lose` blurs what it encodes, so that no mark is left in it.
ENCODER = """#!/bin/bash
how=$(cat "{how}" 2>/dev/null)
case "$how $*" in
  *" 64x64 "*) ;; # what a worker tries when it starts
  "fail "*libx264*) exit 1 ;;
  "hang "*libx264*) exec sleep 600 ;;
  "lose "*libx264*) exec "{ffmpeg}" "${{@:1:$#-1}}" -vf format=yuv420p,gblur=sigma=12 "${{@: -1}}" ;;
esac
exec "{ffmpeg}" "$@"
"""


def load(seed, count):
    """The jobs, in order: what is asked, by whom, and what is to become of it."""
    lot, jobs = random.Random(seed), []
    for number in range(count):
        words = {key: lot.choice(values) for key, values in WORLD.items()}
        prompt = "a {size} {colour} {matter} {what} {does} {where}".format(**words)
        kind = lot.choices(["clip", "cancelled", "forbidden", "flagged"], [80, 8, 7, 5])[0]
        if kind == "forbidden":
            prompt = lot.choice(FORBIDDEN)
        elif kind == "flagged":
            prompt = f"{prompt}, beside some {FLAGGED}"
        size = "288x512" if number % LARGE == LARGE - 1 else lot.choice(["160x288", "288x160"])
        fields = {"prompt": prompt, "seconds": "4", "size": size, "seed": number,
                  "audience": lot.choice(["all", "teen", "adult"]), "metadata": {"title": f"job {number}"}}
        if lot.random() < 0.3:
            fields["safety_identifier"] = f"user {lot.randrange(9)}"
        jobs.append({"kind": kind, "fields": fields, "tenant": number % 3, "key": f"trust {number}",
                     "cancel_after": lot.uniform(0, 8)})
    return jobs


# --- the services around the farm ------------------------------------------------------------------------------


class Services:
    """What the farm is configured with, each behind something that misbehaves on order."""

    def __init__(self, folder, programs):
        for tool in (PYTHON, TOOLS / "juicefs"):
            if not tool.exists():
                raise SystemExit(f"chaos: error: {tool} is missing: run scripts/setup --for test")
        self.folder, self.programs = folder, programs
        self.provider = lies.Provider(FLAGGED)
        self.signers = [self.signer(name) for name in ("right", "wrong")]
        self.socket = lies.Between(str(folder / "right.sock"), str(folder / "signer.sock"), bent_from=64)
        self.bucket = self.server()
        self.store = lies.Between(("127.0.0.1", self.port))
        self.encoder = folder / "encoder"
        script = folder / "ffmpeg"
        script.write_text(ENCODER.format(how=self.encoder, ffmpeg=shutil.which("ffmpeg")))
        script.chmod(0o755)
        self.ffmpeg = script
        self.artwork = folder / "artwork.png"
        subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=c=white@0.9:s=120x48,format=rgba",
                        "-frames:v", "1", self.artwork], check=True)

    def signer(self, name):
        words = [self.programs / "zoetrope", "signer", "--socket", self.folder / f"{name}.sock", "--folder",
                 self.folder / f"signer-{name}"]
        signer = Process(f"signer {name}", words, self.folder / f"signer-{name}.log", {"ZOETROPE_LOG": "warn"})
        signer.start()
        wait_for((self.folder / f"{name}.sock").exists, f"the signer {name}")
        return signer

    @property
    def root(self):
        return self.folder / "signer-right/root.pem"

    def server(self):
        """A real S3 server on disk, so that it may be killed."""
        self.port = free_port()
        meta = f"sqlite3://{self.folder}/meta.db?_journal=WAL"
        environment = {"MINIO_ROOT_USER": "zoetrope", "MINIO_ROOT_PASSWORD": "zoetrope-secret", "HOME": str(self.folder)}
        subprocess.run([TOOLS / "juicefs", "format", "--storage", "file", "--bucket", f"{self.folder}/blocks/",
                        "--trash-days", "0", meta, "farm"], check=True, capture_output=True, env={**os.environ, **environment})
        words = [TOOLS / "juicefs", "gateway", "--no-usage-report", "--no-banner", "--cache-size", "0", "--log",
                 self.folder / "bucket.log", meta, f"127.0.0.1:{self.port}"]
        bucket = Process("bucket", words, self.folder / "bucket.out", environment)
        bucket.start()
        return bucket

    def configuration(self):
        keys = self.folder / "keys.toml"
        keys.write_text(KEYS)
        keys.chmod(0o600)
        return (f'[store]\nplace = "s3://farm/trust"\nendpoint = "http://{self.store.address}"\ncredentials_file = "{keys}"\n'
                f'[provenance]\nsigner = "{self.folder}/signer.sock"\nroot = "{self.root}"\n'
                f'[watermark.artwork]\nproj_2 = "{self.artwork}"\n'
                f'[moderation.remote]\nurl = "{self.provider.url}"\nmode = "join"\ntimeout_seconds = 2\nallow = ["127.0.0.1"]\n')

    def heal(self):
        self.provider.how = "honest"
        self.socket.set("pass", str(self.folder / "right.sock"))
        self.store.set("pass")
        self.encoder.unlink(missing_ok=True)

    def processes(self):
        return [*self.signers, self.bucket]

    def stop(self):
        self.heal()
        for process in self.processes():
            process.signal(signal.SIGCONT)
            process.end(10)


# --- faults ----------------------------------------------------------------------------------------------------


class Faults(threading.Thread):
    """Every fault once, in an order of the seed, then again: one at a time, each undone before the next."""

    def __init__(self, farm, services, seed):
        super().__init__(daemon=True)
        self.farm, self.services, self.lot, self.over = farm, services, random.Random(seed), threading.Event()
        self.done = []
        provider, store, socket = services.provider, services.store, services.socket
        set_provider = lambda how: lambda: setattr(provider, "how", how)
        self.menu = {
            **{f"moderation provider {text}": set_provider(how) for text, how in [
                ("hangs up", "gone"), ("hangs", "hang"), ("answers 500", "fail"), ("gives an empty verdict", "empty"),
                ("leaves out a category", "short"), ("gives a score that cannot be", "wild"), ("contradicts itself", "two-faced")]},
            "signer killed": self.kill_signer,
            "signer stopped": lambda: self.stopped(services.signers[0]),
            "signer hangs": lambda: socket.set("hang"),
            "signer gives bad signatures": lambda: socket.set("bend down"),
            "signer has another key": lambda: socket.set("pass", str(services.folder / "wrong.sock")),
            "store killed": lambda: services.bucket.kill(),
            "store refuses (503)": lambda: store.set("busy"),
            "store hangs": lambda: store.set("hang"),
            "store cuts uploads": lambda: store.set("cut"),
            "store gives other bytes": lambda: store.set("bend down"),
            "store is sent other bytes": lambda: store.set("bend up"),
            "encoder loses the mark": lambda: services.encoder.write_text("lose"),
            "encoder fails": lambda: services.encoder.write_text("fail"),
            "encoder hangs": lambda: services.encoder.write_text("hang"),
            "worker killed": lambda: self.lot.choice(farm.workers).kill(),
            "coordinator killed, with all its sidecars": lambda: farm.coordinators[0].kill(),
            "coordinator stopped, with all its sidecars": lambda: self.stopped(farm.coordinators[0]),
        }

    def kill_signer(self):
        """It starts again when the fault is over, as an operator's service manager would have it."""
        self.services.signers[0].kill()

    def stopped(self, process):
        process.signal(signal.SIGSTOP)

    def heal(self):
        self.services.heal()
        for process in [*self.services.processes(), *self.farm.processes()]:
            process.signal(signal.SIGCONT)
            process.start()

    def run(self):
        order = []
        while not self.over.is_set():
            if not order:
                order = list(self.menu)
                self.lot.shuffle(order)
            name = order.pop()
            self.done.append(name)
            print(f"chaos: {name}", flush=True, file=sys.stderr)
            with contextlib.suppress(OSError):
                self.menu[name]()
            self.over.wait(self.lot.uniform(*FAULT_LASTS))
            self.heal()
            self.over.wait(self.lot.uniform(*FAULT_PAUSE))

    def end(self):
        self.over.set()
        self.join()
        self.heal()


# --- the load --------------------------------------------------------------------------------------------------


class Load:
    """Submits the jobs, cancels those that are to be cancelled, and looks in vain for what is not published."""

    def __init__(self, farm, jobs, submit):
        self.farm, self.jobs, self.submit = farm, jobs, submit
        made = [farm.ask("POST", "/farm/keys", {"name": name})[1] for name in ("with artwork", "another")]
        if made[0].get("project") != "proj_2":
            raise SystemExit(f"chaos: error: the project with artwork is {made[0]}")
        self.keys = [farm.key, *(row["key"] for row in made)]
        self.log, self.early = [], 0

    def key(self, job):
        return self.keys[job["tenant"]]

    def run(self, say):
        waiting, open_jobs, since = list(reversed(self.jobs)), [], time.monotonic()
        while waiting or open_jobs:
            while waiting and len(open_jobs) < UNFINISHED:
                job = waiting.pop()
                job["id"] = self.submit(self.farm, job["fields"], self.key(job), {"idempotency-key": job["key"]})
                job["since"] = time.monotonic()
                self.log.append({"what": "acknowledged", "key": job["key"], "job": job["id"]})
                open_jobs.append(job)
            for job in list(open_jobs):
                if self.look(job):
                    open_jobs.remove(job)
            if time.monotonic() - since > 30:
                since = time.monotonic()
                say(f"{len(self.jobs) - len(waiting) - len(open_jobs)} of {len(self.jobs)} jobs have ended")
            if not waiting and not open_jobs:
                return
            time.sleep(0.3)
            if not waiting and len(open_jobs) <= UNFINISHED // 3:
                return  # the rest is waited for without faults

    def look(self, job):
        """One look at a job; whether it has ended."""
        if job["kind"] == "cancelled" and "cancelled" not in job and time.monotonic() - job["since"] > job["cancel_after"]:
            status, _ = self.farm.ask("POST", f"/v1/videos/{job['id']}/cancel", {}, key=self.key(job))
            if status == 200:
                job["cancelled"] = True
                self.log.append({"what": "cancelled", "job": job["id"]})
            elif status == 409:
                job["cancelled"] = False
        status, video = self.farm.ask("GET", f"/v1/videos/{job['id']}", key=self.key(job))
        if status != 200:
            return False
        kept = ("status", "progress", "assets", "error", "completed_at")
        self.log.append({"what": "seen", "job": job["id"], "video": {k: video.get(k) for k in kept}})
        if video["status"] in ("completed", "failed"):
            return True
        # Between the look and the download it may have been published: then it is one later, too.
        status, _ = self.farm.content(job["id"], self.key(job))
        if status == 200:
            after = self.farm.get(f"/v1/videos/{job['id']}", key=self.key(job))
            if after["status"] != "completed":
                self.early += 1
        return False


# --- independent readers -----------------------------------------------------------------------------------------


def readings(root, clips):
    """What the two C2PA readers say of each clip. Their settings go to a folder of ours, not to the user's."""
    script = ROOT / "scripts/chaoskit/readers.py"
    home = root.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "ENCYPHER_C2PA_ONLINE": "off"}
    told = subprocess.run([PYTHON, script, root], input="".join(f"{clip}\n" for clip in clips), capture_output=True,
                          text=True, check=False, env=environment)
    if told.returncode != 0:
        raise SystemExit(f"chaos: error: the C2PA readers failed: {told.stderr}")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    return {line["file"]: line for line in lines}


def upload(farm, path, file, key):
    """Status and JSON of a file that is sent as a form."""
    bound = "--zoetrope-chaos"
    head = (f'--{bound}\r\ncontent-disposition: form-data; name="file"; filename="clip.mp4"\r\n'
            "content-type: video/mp4\r\n\r\n").encode()
    body = head + file.read_bytes() + f"\r\n--{bound}--\r\n".encode()
    return farm.ask_raw("POST", path, body, f"multipart/form-data; boundary={bound}", key)


def found_mark(farm, clip, key):
    """What the farm finds in a clip whose metadata is gone: results by type."""
    stripped = clip.with_suffix(".stripped.mp4")
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", clip, "-map_metadata", "-1", "-c", "copy", stripped], check=True)
    for _ in range(20):
        status, answer = upload(farm, "/v1/content_provenance_checks", stripped, key)
        if status not in (0, 429, 503):
            break
        time.sleep(1)
    stripped.unlink()
    return {result["type"]: result for result in answer.get("results", [])} if status == 200 else {"error": answer}


def c2pa_gaps(reading):
    """What the readers of C2PA miss; nothing if they agree that the clip is whole, and of this farm."""
    public, other, gaps = reading["public"], reading["other"], []
    if public.get("state") != "Trusted" or public.get("issuer") != "Zoetrope":
        gaps.append(f"c2pa-python: {public.get('state')} {public.get('issuer')} {public.get('error')}")
    if public.get("actions") != [["c2pa.created", SOURCE]]:
        gaps.append(f"actions {public.get('actions')}")
    wanted = {"present": True, "integrity": "valid", "signature": "valid", "hard_binding": "match", "validation_state": "Trusted"}
    wrong = {key: other.get(key) for key, value in wanted.items() if other.get(key) != value}
    failed = other.get("validation_results", {}).get("failure")
    if wrong or failed != []:
        gaps.append(f"encypher-c2pa: {wrong} {failed} {other.get('error')}")
    if said_by(other) != public.get("said"):
        gaps.append("the two C2PA readers read different claims")
    tool = reading["tool"]
    if tool is not None and tool.get("state") != "Trusted":
        gaps.append(f"c2patool: {tool.get('state')} {tool.get('error')}")
    return gaps


def said_by(report):
    """Our own assertion, as the other implementation read it."""
    told = report.get("manifest_report") or {}
    manifest = told.get("manifests", {}).get(told.get("active_manifest"), {})
    return [one["data"] for one in manifest.get("assertions", []) if one["label"].startswith("org.zoetrope")]


def proof_gaps(job, video, proven, reading, judged):
    """Whether the three proofs that the farm shows are about these bytes, and say what the readers read."""
    gaps, said = [], (reading["public"].get("said") or [{}])[0]
    sha256, policy = job["sha256"], (proven.get("moderation") or {}).get("policy_version")
    if proven.get("file_sha256") != sha256 or video["assets"]["video"]["sha256"] != sha256:
        gaps.append("other bytes are published than were downloaded")
    for stage in ("input", "output"):
        verdict = video["moderation"][stage]
        if not verdict or verdict.get("flagged"):
            gaps.append(f"no moderation of its {stage}: {verdict}")
    if not policy or said.get("policy_version") != policy:
        gaps.append(f"policy {policy} in the proof, {said.get('policy_version')} in the manifest")
    if job["fields"]["prompt"] not in judged:
        gaps.append("the moderation provider never judged its prompt")
    if said.get("video_id") != job["id"]:
        gaps.append(f"the manifest is of {said.get('video_id')}")
    mark = (proven.get("watermark") or {}).get("value")
    bound = reading["public"].get("bindings", {}).get("org.zoetrope.mark.video.1")
    if not mark or not bound or base64.b64decode(bound).hex() != mark:
        gaps.append(f"mark {mark} in the proof, {bound} in the manifest")
    return gaps


def check_clips(farm, root, load, ends, judged, found, say):
    """Every published clip against every reader. Gives the facts."""
    clips = [job for job in load.jobs if ends[job["id"]]["status"] == "completed"]
    folder = farm.folder / "clips"
    folder.mkdir()
    for job in clips:
        status, clip = farm.content(job["id"], load.key(job))
        found.hold(3, status == 200, f"{job['id']} is completed and its clip answers {status}")
        job["clip"], job["sha256"] = folder / f"{job['id']}.mp4", hashlib.sha256(clip).hexdigest()
        job["clip"].write_bytes(clip)
    say(f"{len(clips)} clips are downloaded; two C2PA readers look at them")
    read = readings(root, [job["clip"] for job in clips])
    say("their metadata is stripped, and their marks are looked for")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        marks = list(pool.map(lambda job: found_mark(farm, job["clip"], load.key(job)), clips))
    tracks, unproven = collections.Counter(), []
    for job, seen in zip(clips, marks):
        reading, video = read[str(job["clip"])], ends[job["id"]]
        proven = farm.get(f"/v1/videos/{job['id']}/provenance", key=load.key(job))
        gaps = c2pa_gaps(reading) + proof_gaps(job, video, proven, reading, judged)
        mark = seen.get("watermark", {})
        tracks[mark.get("track", "none")] += 1
        if seen.get("c2pa", {}).get("outcome") != "not_detected":
            gaps.append(f"the strip left its C2PA: {seen}")
        if mark.get("outcome") != "detected" or mark.get("video_id") != job["id"]:
            gaps.append(f"its mark leads elsewhere: {seen}")
        found.hold(3, not gaps, f"{job['id']} ({job['fields']['size']}): {'; '.join(gaps)}")
        if gaps:
            unproven.append(job["id"])
    return {"clips_published": len(clips), "clips_unproven": len(unproven), "marks_found_in": dict(tracks)}


def check_ends(load, ends, found):
    """What became of those that must not be published."""
    for job in load.jobs:
        video, kind = ends[job["id"]], job["kind"]
        code = (video["error"] or {}).get("code")
        if kind in ("forbidden", "flagged"):
            found.hold(3, video["status"] == "failed" and code == "moderation_blocked" and video["assets"] is None,
                       f"{job['id']} is {kind} and {video['status']} {code}")
        elif kind == "cancelled" and job.get("cancelled"):
            found.hold(6, code == "cancelled" and video["assets"] is None, f"{job['id']} was cancelled and is {video['status']}")
        else:
            # Nothing that was done to the sidecars is the job's fault.
            found.hold(1, video["status"] == "completed", f"{job['id']} ended as {video['status']} {code}")
    found.hold(3, load.early == 0, f"{load.early} clips could be read before they were published")


# --- the section -------------------------------------------------------------------------------------------------


def attack(farm, services, args, submit, all_ended, say):
    """All of it; the last three are those of the other sections."""
    model = ["--engine", "h3", "--model", ROOT / "worker/models/toybox"]
    farm.add_workers(1, model, names="honest")
    farm.add_workers(1, [*model, "--ffmpeg", services.ffmpeg], names="bent")
    mixed = Load(farm, load(args.seed, args.jobs), submit)
    faults, began = Faults(farm, services, args.seed), time.monotonic()
    faults.start()
    mixed.run(say)
    faults.end()
    rendered = time.monotonic() - began
    say(f"{len(faults.done)} faults; what is left is waited for")
    owners = {job["id"]: mixed.key(job) for job in mixed.jobs}
    ends = all_ended(farm, owners, owners, ENDED_WITHIN)
    found, facts = history.check(farm, mixed.log, ends)
    check_ends(mixed, ends, found)
    facts.update(check_clips(farm, services.root, mixed, ends, services.provider.judged, found, say))
    facts.update(fsck(farm, found))
    kinds = collections.Counter(job["kind"] for job in mixed.jobs)
    refused = {line: farm.metric("zoetrope_publishes_refused_total", f'proof="{line}"') for line in
               ("moderation", "watermark", "signature", "digest", "av_gap")}
    return found, {"jobs": len(mixed.jobs), "kinds": dict(kinds), "rendered_in_s": round(rendered), **facts,
                   "faults": dict(collections.Counter(faults.done)), "faults_in_all": len(faults.done),
                   "lies_of_the_provider": services.provider.lies,
                   "answers_bent": {"signer": services.socket.bent, "store": services.store.bent},
                   "publishes_refused_since_the_last_start": {k: v for k, v in refused.items() if v}}


def fsck(farm, found):
    """The farm's own look at its store: every pointer, digest and proof."""
    words = [farm.programs / "zoetrope", "fsck", "--json", "--url", farm.coordinators[0].url, "--key", farm.key]
    told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    found.hold(10, told.returncode == 0, f"fsck: {told.stdout[-2000:]}{told.stderr[-500:]}")
    return {"fsck": "clean" if told.returncode == 0 else "finds something"}
