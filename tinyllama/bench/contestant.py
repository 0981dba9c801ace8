"""A process that makes training steps when it is told to, so that whoever is compared disturbs nobody else.

Each side of a comparison has a process of its own and sleeps while the others run: memory allocator, thread pools and
settings of one do not reach another. The two ends speak one line of JSON at a time:

    the first line      what to run, the arguments of `Contestant`      ->  {"facts": {...}}
    {"steps": 3}                                                        ->  {"seconds": [...], "loss": ..., "peak": ...}
    the end of input    ends the process

or {"error": "..."}, after which the process ends.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS = ("ours", "eager", "compiled")


class Contestant:
    """One side of a comparison. `facts`: what it is, such as {"backend": "numba", "workers": 2}.

    kind: "ours", "eager" or "compiled". size: a `Size`. backend, workers: of ours. cores: how many the process may use,
    where the system can say that; None is all. environment: variables that differ from those of this process. To be
    used in a `with`, at whose end the process ends. Raises ChildProcessError with one sentence where the other process
    failed.
    """

    def __init__(self, kind, size, *, backend=None, workers=None, cores=None, environment=None):
        self.kind = kind
        self._errors = tempfile.TemporaryFile()         # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tinyllama.bench.contestant"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, encoding="utf-8", env={**os.environ, **(environment or {})})
        self.facts = self._ask({"kind": kind, "size": size, "backend": backend, "workers": workers,
                                "cores": cores})["facts"]

    def steps(self, count):
        """Make some steps: {"seconds": of each, "loss": the last, "peak": bytes, see `peak_bytes`, or None}."""
        return self._ask({"steps": count})

    def close(self):
        """End the process."""
        with contextlib.suppress(BrokenPipeError):      # it has ended by itself
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] is not None:
            self._process.kill()
        self.close()

    def _ask(self, question):
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            self.close()
            raise ChildProcessError(f"{self.kind}: {answer['error']}")
        return answer

    def _last_words(self):
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), f"it ended with {self._process.returncode}")


def peak_bytes():
    """The most memory that this process has had so far; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 if "VmHWM" in fields else None
    if sys.platform == "darwin":
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main():
    """The other process: answer the questions that come on standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)                   # what a compiler prints must not come between the answers
    try:
        step, facts, before = _prepare(**json.loads(sys.stdin.readline()))
        _answer(answers, {"facts": facts})
        for line in sys.stdin:
            seconds, loss = _steps(step, json.loads(line)["steps"])
            _answer(answers, {"seconds": seconds, "loss": loss, "peak": before and peak_bytes() - before})
    except Exception as error:      # whatever it was, the parent says it in one sentence
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
        _answer(answers, {"error": f"{type(error).__name__}: {lines[0]}"})


def _prepare(kind, size, backend, workers, cores):
    """(step, facts, the peak of the memory once the packages are imported and the kernels loaded)."""
    if cores is not None:           # before NumPy is imported, whose BLAS makes a thread for each core
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from tinyllama.backends import default_backend, load_backend, threads
    from tinyllama.bench.sizes import Size
    size = Size(*size)
    if kind == "ours":
        from tinyllama.bench.steps import our_step
        chosen = load_backend(backend or default_backend())
        for _ in chosen.compile_kernels("float32"):         # code like that of a package, and no memory of a step
            pass
        before = peak_bytes()
        step, model = our_step(size, backend=chosen, workers=workers)
        return step, {"backend": chosen.name, "workers": model.workers_for(size.batch_size)}, before
    import torch

    from tinyllama.bench.torch_llama import torch_step
    torch.set_num_threads(threads.cores())
    before = peak_bytes()
    step = torch_step(size, compiled=kind == "compiled")
    return step, {"torch": torch.__version__, "threads": torch.get_num_threads()}, before


def _steps(step, count):
    from tinyllama.bench.steps import seconds_of
    seconds, losses = [], []
    for _ in range(count):
        seconds.append(seconds_of(lambda: losses.append(step())))
    return seconds, losses[-1]


def _answer(answers, answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
