"""Training runs in processes of their own, which can be killed. POSIX only.

One helper process imports everything and waits; each run is a fork of it, and so begins within milliseconds. The helper
has a single thread of Python's, which makes forking safe.
"""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

PHASES = ("setup", "step", "checkpoint", "best model", "end")
CRASHED, FAILED = 17, 1


class ForkedRuns:
    """Starts runs in forks of a helper process. A context manager."""

    def __enter__(self):
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._helper = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, encoding="utf-8",
                                        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))})
        return self

    def __exit__(self, *_):
        self._helper.stdin.close()
        self._helper.wait()
        self._helper.stdout.close()

    def __call__(self, settings, *, kill_after=None, crash_at=None, sabotage=None):
        """Start the run, or resume it where run.json is there, and wait for its end.

        kill_after: seconds until SIGKILL. crash_at: the process ends just before its k-th change of the disk, counted
        from 1. sabotage: the name of a function of this file, called before the run. Returns {"ended": "done",
        "killed" or "crashed", "phase": of PHASES, "changes": of the disk, counted, "seconds": taken}. Raises
        AssertionError with the traceback where the run failed.
        """
        request = {"settings": settings, "kill_after": kill_after, "crash_at": crash_at, "sabotage": sabotage}
        self._helper.stdin.write(json.dumps(request) + "\n")
        self._helper.stdin.flush()
        report = json.loads(self._helper.stdout.readline())
        assert report["ended"] != "failed", report["error"]
        return report


class Watch:
    """Where a child is, in memory that it shares with its parent: a byte for the phase and eight for the changes."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 9)

    @property
    def phase(self):
        return PHASES[self.memory[0]]

    @phase.setter
    def phase(self, name):
        self.memory[0] = PHASES.index(name)

    @property
    def changes(self):
        return int.from_bytes(self.memory[1:9], "little")

    @changes.setter
    def changes(self, count):
        self.memory[1:9] = count.to_bytes(8, "little")


def serve():
    """Make the runs that come in as lines, each in a fork, and report how they ended, until there are no more."""
    for line in sys.stdin:
        request, watch, begin = json.loads(line), Watch(), time.monotonic()
        errors, written = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(errors)
            _run(request, watch, written)
        os.close(written)
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(child, signal.SIGKILL)
        with open(errors, encoding="utf-8") as stream:
            error = stream.read()
        _, status = os.waitpid(child, 0)
        ended = "killed" if os.WIFSIGNALED(status) else {0: "done", CRASHED: "crashed"}.get(
            os.WEXITSTATUS(status), "failed")
        print(json.dumps({"ended": ended, "phase": watch.phase, "changes": watch.changes, "error": error,
                          "seconds": time.monotonic() - begin}), flush=True)


def _run(request, watch, errors):
    """What the child does."""
    import small_runs
    code = FAILED
    try:
        _note_phases(watch)
        if request["sabotage"]:
            globals()[request["sabotage"]]()
        if request["crash_at"] is not None:
            _count_changes(watch, request["crash_at"])
        out = Path(request["settings"]["out"])
        if (out / "run.json").exists():
            small_runs.resume(out)
        else:
            small_runs.start(request["settings"] | {"out": out})
        code = 0
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _note_phases(watch):
    from tinyllama.training import run
    for name, phase in (("write_checkpoint", "checkpoint"), ("save_model", "best model")):
        setattr(run, name, _noting(watch, phase, getattr(run, name)))

    def training(self, stop, _function=run._Run._train):
        watch.phase = "step"
        _function(self, stop)
        watch.phase = "end"
    run._Run._train = training


def _noting(watch, phase, function):
    def noting(*args):
        before, watch.phase = watch.phase, phase
        function(*args)
        watch.phase = before
    return noting


def _count_changes(watch, crash_at):
    """End the process before the `crash_at`-th change of the disk.

    Python says itself when it opens, moves or removes something. What is written by safetensors is cut in half too.
    """
    def change():
        watch.changes += 1
        if watch.changes == crash_at:
            os._exit(CRASHED)

    def hear(event, args):
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
                event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            change()

    def save_file_in_halves(save_file):
        def saving(tensors, file, **options):
            change()
            save_file(tensors, file, **options)
            whole = Path(file).read_bytes()
            with contextlib.suppress(OSError):
                os.truncate(file, len(whole) // 2)
            change()
            os.truncate(file, 0)
            with open(file, "wb") as stream:
                stream.write(whole)
        return saving

    from tinyllama.formats import huggingface
    from tinyllama.training import checkpoints
    for module in (huggingface, checkpoints):
        module.save_file = save_file_in_halves(module.save_file)
    os.fsync = lambda _: change()
    sys.addaudithook(hear)


def crash_in_step_5():
    """The process ends after four steps."""
    from tinyllama.data import WindowBatches
    original = WindowBatches.batch
    WindowBatches.batch = lambda self, step: os._exit(CRASHED) if step == 4 else original(self, step)


# ---- wrong versions, which the tests have to notice

def forget_the_moments():
    """The optimizer begins anew with each process."""
    from tinyllama.training.optimizers import Optimizer
    Optimizer.load_state = lambda self, arrays, steps: setattr(self, "steps", steps)


def begin_the_schedule_anew():
    """The learning rate depends on the steps since the process began."""
    from tinyllama.training import trainer
    original, first = trainer.learning_rate_at, []

    def since_the_beginning(step, **settings):
        first.append(step)
        return original(step - first[0], **settings)

    trainer.learning_rate_at = since_the_beginning


def draw_batches_in_turn():
    """The batches come from a generator that is not saved."""
    from tinyllama.data import WindowBatches
    original, calls = WindowBatches.batch, []

    def next_batch(self, step):
        calls.append(step)
        return original(self, len(calls))

    WindowBatches.batch = next_batch


def remove_the_old_checkpoint_first():
    """There is a moment without any checkpoint."""
    from tinyllama.training import checkpoints
    original = checkpoints.flush

    def flush(path):
        original(path)
        if path.is_dir() and path.name.startswith("step-"):
            for other in path.parent.iterdir():
                if other != path:
                    checkpoints.shutil.rmtree(other)

    checkpoints.flush = flush


def name_it_before_it_is_written():
    """A checkpoint has its name before it is complete."""
    from tinyllama.training import checkpoints, run

    def write_checkpoint(out, model, optimizer, facts):
        final = Path(out) / checkpoints.FOLDER / f"step-{facts['step']:06d}"
        checkpoints.save(model, final)
        checkpoints.save_file(optimizer.state(), final / "optimizer.safetensors")
        checkpoints.write_json(final / "training.json", {"version": checkpoints.VERSION, **facts})
        for other in final.parent.iterdir():
            if other != final:
                checkpoints.shutil.rmtree(other)

    run.write_checkpoint = write_checkpoint


def warm_up():
    """Make a run here, without threads, so that all that is imported on the way is imported before the first fork."""
    import small_runs
    small_runs.only_the_training(setattr)
    os.fsync = lambda _: None       # a process that is killed loses nothing by it, and the tests are faster
    with tempfile.TemporaryDirectory() as directory:
        text, out = Path(directory) / "text.txt", Path(directory) / "out"
        text.write_text(small_runs.TEXT, encoding="utf-8")
        small_runs.start({"data": str(text), "out": out, "steps": 1, "workers": 1})
        small_runs.resume(out)


if __name__ == "__main__":
    warm_up()
    serve()
