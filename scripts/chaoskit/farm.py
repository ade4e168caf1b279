"""The processes of a farm that is to be hurt: coordinators, etcd, workers, each started, signalled, and started again."""
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMITS = "[limits]\nrequests_per_second = 100000\nburst = 100000\njobs_of_tenant = 100000\njobs_of_farm = 1000000\n"


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def wait_for(holds, what, within=120.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            if found := holds():
                return found
        time.sleep(0.05)
    raise SystemExit(f"chaos: error: not within {within:.0f} s: {what}")


class Process:
    """One program that is started again after each death. Ends with the script."""

    def __init__(self, name, words, log, environment=None):
        self.name, self.words, self.log = name, [str(word) for word in words], log
        self.environment = {**os.environ, **(environment or {})}
        self.child = None
        self.starts = 0
        self.lock = threading.Lock()

    def start(self):
        with self.lock:
            if self.child and self.child.poll() is None:
                return
            if self.starts == 0:
                # Also where the script ends while the farm is still being started.
                atexit.register(self.kill)
            with self.log.open("ab") as log:
                self.child = subprocess.Popen(self.words, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                              env=self.environment, start_new_session=True)
            self.starts += 1

    def signal(self, number):
        with self.lock:
            if self.child and self.child.poll() is None:
                self.child.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        if self.child:
            self.child.wait()

    def end(self, within=40):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if self.child:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(within)
            if self.child.poll() is None:
                self.kill()

    @property
    def pid(self):
        return self.child.pid if self.child and self.child.poll() is None else None


class Coordinator(Process):
    def __init__(self, number, folder, programs, journal, environment=None):
        self.http = f"127.0.0.1:{free_port()}"
        self.link = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        self.url = f"http://{self.http}"
        self.data = folder / f"coordinator{number}"
        self.data.mkdir(parents=True)
        config = self.data / "farm.toml"
        config.write_text(f'listen = "{self.http}"\nlink_listen = "{self.link}"\ndata = "{self.data}/data"\n'
                          f"{LIMITS}keep_unused_seconds = 30\nkeep_intermediate_seconds = 0\nkeep_failed_seconds = 0\n{journal}")
        super().__init__(f"coordinator{number}", [programs / "zoetrope", "serve", "--config", config],
                         folder / f"coordinator{number}.log", {"ZOETROPE_LOG": "info", **(environment or (lambda _: {}))(f"coordinator{number}")})

    def role(self):
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(self.url + "/readyz", timeout=2) as answer:
                return answer.read().decode().strip()
        return ""


def etcd_process(folder):
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    words = ["etcd", "--name", "default", "--data-dir", folder / "etcd", "--listen-client-urls", client,
             "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}", "--auto-compaction-retention", "5m"]
    environment = {"ETCD_UNSUPPORTED_ARCH": {"aarch64": "arm64"}.get(os.uname().machine, "")}
    return Process("etcd", words, folder / "etcd.log", {k: v for k, v in environment.items() if v}), client


class Farm:
    """Coordinators with one journal, and workers that reach them directly or through a proxy."""

    def __init__(self, folder, programs, coordinators=1, etcd=False, environment=None, configuration=""):
        self.folder, self.programs = folder, programs
        self.etcd, journal = None, configuration
        if etcd:
            self.etcd, endpoint = etcd_process(folder)
            (folder / "secret").write_text("7" * 64)
            journal = (f'[journal]\nstore = "etcd"\nsnapshot_every = 2000\n[cluster]\nendpoints = ["{endpoint}"]\n'
                       f'secret_file = "{folder}/secret"\nstore = "{folder}/store"\n')
            self.etcd.start()
        self.coordinators = [Coordinator(n, folder, programs, journal, environment) for n in range(coordinators)]
        self.store = folder / "store" if etcd else self.coordinators[0].data / "data" / "store"
        self.workers = []
        for coordinator in self.coordinators:
            coordinator.start()
        keys = [coordinator.data / "data" / "api-key" for coordinator in self.coordinators]
        self.key = wait_for(lambda: next((k.read_text().strip() for k in keys if k.exists()), None), "a key")
        wait_for(self.leader, "a leader")

    def leader(self):
        return next((c for c in self.coordinators if c.role() in ("ready", "ready: leader", "ok")), None)

    def add_workers(self, count, arguments, links=None, names="w"):
        token = self.ask("POST", "/farm/join_tokens", {"uses": count * 3, "ttl_seconds": 3600})[1]["token"]
        links = links or [coordinator.link for coordinator in self.coordinators]
        first = len(self.workers)
        for number in range(first, first + count):
            name = f"{names}{number}"
            words = [self.programs / "zoetrope-worker", "run", "--coordinator", ",".join(links), "--data",
                     self.folder / name, "--name", name, "--threads", "1", *arguments]
            worker = Process(name, words, self.folder / f"{name}.log",
                             {"ZOETROPE_JOIN_TOKEN": token, "ZOETROPE_LOG": "info"})
            self.workers.append(worker)
            worker.start()
        wait_for(lambda: len(self.get("/farm/workers")["data"]) >= len(self.workers), "all workers are there")

    def ask(self, method, path, body=None, headers=None, key=None, timeout=15.0, of=None):
        """Status and JSON; status 0 if there is no answer. Asks each coordinator until one answers."""
        data = None if body is None else json.dumps(body).encode()
        return self.ask_raw(method, path, data, "application/json", key, headers, timeout, of)

    def ask_raw(self, method, path, data, kind, key=None, headers=None, timeout=60.0, of=None):
        """The same with a body of any kind."""
        for coordinator in [of] if of else self.coordinators:
            request = urllib.request.Request(coordinator.url + path, method=method, data=data,
                                             headers={"authorization": f"Bearer {key or self.key}", **(headers or {})})
            if data is not None:
                request.add_header("content-type", kind)
            try:
                with urllib.request.urlopen(request, timeout=timeout) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error, contextlib.suppress(ValueError, OSError):
                    return error.code, json.load(error)
                return error.code, {}
            except (OSError, ValueError):
                continue
        return 0, {}

    def get(self, path, patience=60.0, key=None):
        """JSON of what is there; asked again while the farm is away."""
        end = time.monotonic() + patience
        while True:
            status, answer = self.ask("GET", path, key=key)
            if status == 200 or (status and status < 500 and status != 429):
                return answer
            if time.monotonic() > end:
                raise SystemExit(f"chaos: error: no answer to {path}: {status} {answer}")
            time.sleep(0.2)

    def content(self, job, key=None):
        for coordinator in self.coordinators:
            request = urllib.request.Request(f"{coordinator.url}/v1/videos/{job}/content",
                                             headers={"authorization": f"Bearer {key or self.key}"})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                error.close()
                return error.code, b""
            except OSError:
                continue
        return 0, b""

    def metric(self, name, label="", of=None):
        with urllib.request.urlopen((of or self.leader()).url + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        own = [l for l in lines if l.startswith((name + " ", name + "{")) and label in l]
        return sum(float(l.rsplit(" ", 1)[1]) for l in own)

    def history(self, job):
        return self.get(f"/farm/jobs/{job}")

    def processes(self):
        return [*self.workers, *self.coordinators, *([self.etcd] if self.etcd else [])]

    def stop(self):
        for process in self.processes():
            process.signal(signal.SIGCONT)
        for group in (self.workers, self.coordinators, [self.etcd] if self.etcd else []):
            enders = [threading.Thread(target=process.end) for process in group]
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join()
