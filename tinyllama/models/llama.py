"""A LLaMA to use: logits, loss, gradients, text."""

import functools
import itertools
import numbers

import numpy as np

from tinyllama.backends import Backend, default_backend, load_backend
from tinyllama.backends.threads import blas_threads, choose_workers, cores, run_in_threads
from tinyllama.generation import Sampling, generate
from tinyllama.models.config import LlamaConfig
from tinyllama.models.decoding import new_session, new_step
from tinyllama.models.inputs import check_like_ids, check_prompts, check_tokens
from tinyllama.models.lora import LoraSettings, attach, draw_first, merge_lora, updates
from tinyllama.models.network import LlamaNetwork
from tinyllama.nn import Context
from tinyllama.ops.array import as_rows

LOGITS_BYTES = 2**23        # the logits of so many tokens are computed at a time


class Llama(LlamaNetwork):
    """A LLaMA, or what `config` makes of it, with its weights drawn from `seed` (None: not drawn, to be loaded).

    backend: the name of a backend or a `Backend`; None is `default_backend()`. dtype: "float32" or "float64".
    frozen: patterns of parameter names that are not trained. workers: how many threads share a training step; None
    chooses by cores, rows and memory. lora: `LoraSettings`; all weights are then frozen, and what is trained are the
    low-rank updates beside them, which begin as none.

    parameters: {name: array view}, by Hugging Face's names; writing into an array changes the model. Raises ValueError
    where an argument is out of range.
    """

    lora = None         # a quantised model has none

    def __init__(self, config, backend=None, dtype="float32", seed=0, *, frozen=(), workers=None, lora=None):
        if not isinstance(config, LlamaConfig):
            raise TypeError(f"config: expected a LlamaConfig, got {config!r}")
        if not isinstance(backend, str | Backend | None):
            raise TypeError(f"backend: expected a name, a Backend or None, got {backend!r}")
        if dtype not in ("float32", "float64", np.float32, np.float64):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed: expected at least 0, or None, got {seed}")
        if workers is not None and not (isinstance(workers, numbers.Integral) and workers >= 1):
            raise ValueError(f"workers: expected at least 1, or None, got {workers!r}")
        if isinstance(frozen, str):
            raise TypeError(f"frozen: expected a list of patterns, got the string {frozen!r}")
        if not isinstance(lora, LoraSettings | None):
            raise TypeError(f"lora: expected LoraSettings or None, got {lora!r}")
        if lora is not None and frozen:
            raise ValueError(f"frozen: expected no patterns beside lora, which freezes all weights, got {list(frozen)}")
        self.dtype, self.frozen, self.workers = np.dtype(dtype), tuple(frozen), workers
        self.lora = lora
        self.backend = backend if isinstance(backend, Backend) else load_backend(backend or default_backend())
        super().__init__(config, backend=self.backend, dtype=self.dtype)
        tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
        if lora is not None:
            frozen = {name for d in self.declarations() for name in ([part for part, _ in d.parts] or [d.name])}
            attach(self, lora)
        self.initialize(self.backend, dtype=self.dtype, seed=seed, frozen=frozen, other_names=tied)
        if lora is not None:
            draw_first(self, lora.seed)
        self._gradients = []        # one (flat buffer, named views) a worker, made when first needed

    def __deepcopy__(self, memo):
        """A model of its own with the same weights; the backend is shared, and gradients are not copied."""
        copy = Llama(self.config, self.backend, self.dtype, seed=None, frozen=self.frozen, workers=self.workers,
                     lora=self.lora)
        copy.parameters.trainable[...] = self.parameters.trainable
        copy.parameters.frozen[...] = self.parameters.frozen
        return copy

    def declarations(self):
        """The parameters of the network; those of updates come last, so that the others are drawn as without them."""
        names = {name for update in updates(self) for name in update.shapes}
        return sorted(super().declarations(), key=lambda declaration: declaration.name in names)

    # ---- logits and loss

    def logits(self, ids, *, documents=None):
        """The score of every token as the next one, after every token.

        ids: (B, T) integers  ->  (B, T, vocab_size), an array of the backend. documents: (B, T) integers; tokens of
        different documents do not see one another. Raises TypeError or ValueError for ids that are not integers, out of
        range, or longer than the context.
        """
        ids = check_tokens(ids, self.config)                                    # (B, T)
        rows = [ids] if documents is None else [ids, check_like_ids(documents, ids, "documents")]
        batch = self.backend.asarray(np.stack(rows))                            # (1 or 2, B, T): the only upload
        context = Context(documents=None if documents is None else batch[1])
        hidden, _ = self.forward(batch[0], slice(0, ids.shape[1]), context, keep_caches=False)
        return self.lm_head.forward(hidden)[0]                                  # (B, T, hidden) -> (B, T, vocab_size)

    def loss(self, ids, targets, *, divisor=None, documents=None, dropout=None, label_smoothing=0.0):
        """The mean cross-entropy in nats per target, without gradients: an array of the backend of no dimension.

        Arguments as in `loss_and_grads`.
        """
        batch, settings = self._upload(ids, targets, documents, divisor, label_smoothing)

        def work(worker, rows, first_row):
            return self._shard_loss(rows, first_row, settings, dropout)

        return sum(self._share_rows(batch, self.workers_for(batch.shape[1], gradients=False), work))

    def loss_and_grads(self, ids, targets, divisor=None, accumulate=False, *, documents=None, dropout=None,
                       label_smoothing=0.0):
        """The mean cross-entropy in nats per target, and its gradient with respect to every trainable parameter.

        ids, targets: (B, T) integers; a target of -100 does not count.
        divisor: what the sum over the targets is divided by; None is the number that count. Parts of a larger batch
            pass the count of the whole, with accumulate=True from the second part on, and get the gradient of the
            whole.
        documents: (B, T) integers; tokens of different documents do not see one another. Learned and sinusoidal
            positions are still counted along the row; rotation knows only distances.
        dropout: (seed, step, micro-step), from which the masks are drawn; needed where config.dropout is not 0.
        label_smoothing: the part of every target that is spread over all tokens, see `tinyllama.ops.cross_entropy`.

        Returns (loss, grads): an array of the backend of no dimension, and {name: array}, views of one flat buffer that
        the next call overwrites, in the order of that buffer. The rows are shared among worker threads; the result is
        the same for any number of them up to rounding, and bit for bit for the same number. Raises TypeError or
        ValueError naming the argument.
        """
        if dropout is not None and not (isinstance(dropout, tuple) and len(dropout) == 3):
            raise ValueError(f"dropout: expected (seed, step, micro-step), got {dropout!r}")
        if self.config.dropout and dropout is None:
            raise ValueError(f"dropout: expected (seed, step, micro-step), because config.dropout is "
                             f"{self.config.dropout}, got None; model.loss is the pass without dropout")
        batch, settings = self._upload(ids, targets, documents, divisor, label_smoothing)
        workers = self.workers_for(batch.shape[1])
        while len(self._gradients) < workers:
            self._gradients.append(self.parameters.new_gradients())

        def work(worker, rows, first_row):
            _, grads = self._gradients[worker]
            if worker > 0 or not accumulate:
                grads.begin_anew()
            loss = self._shard_loss_and_grads(rows, first_row, settings, dropout, grads)
            grads.finish()
            return loss

        losses = self._share_rows(batch, workers, work)
        self._add_up_gradients(workers)
        return sum(losses), self._gradients[0][1]

    def workers_for(self, rows, *, gradients=True):
        """How many threads share a batch of so many rows: what was set or is chosen, and no more than rows.

        gradients: whether each has a gradient buffer of its own, as in `loss_and_grads`, or none, as in `loss`.
        """
        if not self.backend.runs_in_threads:
            return 1
        if self.workers is not None:
            return max(1, min(self.workers, rows))
        return choose_workers(rows, self.parameters.trainable.nbytes if gradients else 0)

    @property
    def gradient(self):
        """The flat gradient buffer that `loss_and_grads` fills, the twin of `parameters.trainable`; None before."""
        return self._gradients[0][0] if self._gradients else None

    def _upload(self, ids, targets, documents, divisor, label_smoothing):
        """Check on the host and send in one piece: (2 or 3, B, T) ids, targets, documents; the settings of the loss."""
        ids = check_tokens(ids, self.config)
        targets = check_like_ids(targets, ids, "targets", self.config.vocab_size)
        rows = [ids, targets]
        if documents is not None:
            rows.append(check_like_ids(documents, ids, "documents"))
        if divisor is None:
            divisor = max(int(np.count_nonzero(targets != -100)), 1)
        if np.ndim(divisor) or isinstance(divisor, str) or not 0 < float(divisor) < float("inf"):
            raise ValueError(f"divisor: expected a number above 0, got {divisor}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: expected 0 <= label_smoothing <= 1, got {label_smoothing}")
        # Python's numbers, because NumPy's would widen float32
        settings = {"divisor": float(divisor), "label_smoothing": float(label_smoothing)}
        return self.backend.asarray(np.stack(rows)), settings

    def _share_rows(self, batch, workers, work):
        """[work(worker, rows, first_row), ...] for every worker, each in a thread with its part of the rows."""
        if workers == 1:
            return [work(0, batch, 0)]
        bounds = [batch.shape[1] * worker // workers for worker in range(workers + 1)]
        with blas_threads(max(1, cores() // workers)):
            return run_in_threads([
                lambda worker=worker, first=first, last=last: work(worker, batch[:, first:last], first)
                for worker, (first, last) in enumerate(itertools.pairwise(bounds))])

    def _add_up_gradients(self, workers):
        """Add the gradients of all workers to those of the first, in their order; each thread takes a part of them."""
        total, *others = [buffer for buffer, _ in self._gradients[:workers]]
        bounds = [len(total) * i // workers for i in range(workers + 1)]

        def add(part):
            for other in others:
                total[part] += other[part]

        run_in_threads([lambda part=slice(*ends): add(part) for ends in itertools.pairwise(bounds)])

    def _shard_loss(self, batch, first_row, settings, dropout):
        hidden, _, targets = self._shard_hidden(batch, first_row, dropout, keep_caches=False)
        losses = []
        for rows in self._head_pieces(len(hidden)):
            logits, _ = self.lm_head.forward(hidden[rows])                      # (n, hidden) -> (n, vocab_size)
            losses.append(self.backend.cross_entropy_forward(logits, targets=targets[rows], **settings)[0])
        return sum(losses)

    def _shard_loss_and_grads(self, batch, first_row, settings, dropout, grads):
        hidden, cache, targets = self._shard_hidden(batch, first_row, dropout, keep_caches=True)
        losses, dhidden = [], []
        for rows in self._head_pieces(len(hidden)):
            logits, head_cache = self.lm_head.forward(hidden[rows])             # (n, hidden) -> (n, vocab_size)
            loss, loss_cache = self.backend.cross_entropy_forward(logits, targets=targets[rows], **settings)    # ()
            dlogits = self.backend.cross_entropy_backward(1.0, loss_cache)      # (n, vocab_size)
            dhidden.append(self.lm_head.backward(dlogits, head_cache, grads))   # (n, hidden)
            losses.append(loss)
        dhidden = self.backend.xp.concatenate(dhidden).reshape(*batch.shape[1:], -1)        # (N, hidden) -> (B, T, ..)
        self.backward(dhidden, cache, grads)
        return sum(losses)

    def _shard_hidden(self, batch, first_row, dropout, *, keep_caches):
        """The hidden state of every token, (N, hidden), the cache of the network, and the targets, (N,); N = B · T."""
        ids, targets = batch[0], batch[1]                                       # (B, T) each
        context = Context(documents=batch[2] if len(batch) > 2 else None, dropout=dropout, first_row=first_row)
        hidden, cache = self.forward(ids, slice(0, ids.shape[1]), context, keep_caches=keep_caches)
        return as_rows(hidden), cache, targets.reshape(-1)

    def _head_pieces(self, rows):
        """Slices of as many tokens as give LOGITS_BYTES of logits: those of a whole batch may be most of memory."""
        size = max(LOGITS_BYTES // (self.config.vocab_size * self.dtype.itemsize), 1)
        return [slice(start, start + size) for start in range(0, rows, size)]

    # ---- generation

    def generate(self, prompt_ids, max_new_tokens=50, temperature=1.0, top_k=None, top_p=None, min_p=None, seed=0, *,
                 on_limit="stop", end_tokens=None, session=None):
        """Continue a prompt, one token after another: an iterator that yields each token as soon as it is drawn.

        prompt_ids: one sequence of integers, and the iterator yields integers; or a list of sequences, perhaps of
            different lengths, and it yields arrays (B,), with -1 for a row that has ended.
        temperature, top_k, top_p, min_p: see `tinyllama.ops.sampling`; the temperature 0 is greedy. seed: the same
            seed gives the same text. The rows of a batch draw numbers of their own: the first as a single prompt would,
            the others not, so that equal prompts give different texts.
        on_limit: what to do when the context is full, "stop" or "slide" (go on with the last half of the tokens).
            Either gives a `ContextLimitWarning`.

        end_tokens: those that end a text; None is those of the configuration.
        session: what `new_session` gave, for a single prompt. What the prompt has in common with the text that the
            session holds does not go through the model again; the session then holds the prompt and what follows.

        A text ends after an end token, which is still yielded, or after `max_new_tokens`. Raises TypeError or
        ValueError, naming the argument, before the first token.

        With LoRA's updates a text is written by a copy of the model into which they are merged; for many texts, make
        that copy once by `merge_lora`.
        """
        prompts, single = check_prompts(prompt_ids, self.config)
        if not (isinstance(max_new_tokens, numbers.Integral) and max_new_tokens >= 0):
            raise ValueError(f"max_new_tokens: expected at least 0, got {max_new_tokens!r}")
        if on_limit not in ("stop", "slide"):
            raise ValueError(f"on_limit: expected 'stop' or 'slide', got {on_limit!r}")
        sampling = Sampling(temperature, top_k, top_p, min_p, seed).check()
        if session is None:
            limit, model = self.config.max_position_embeddings, self if self.lora is None else merge_lora(self)
            capacity = min(limit, max(map(len, prompts)) + max_new_tokens)
            steps = functools.partial(new_step, model, len(prompts), capacity)
        else:
            limit, steps = session.capacity, session.new_step
            if not single or len(prompts[0]) > limit:
                raise ValueError(f"prompt_ids: expected one prompt of at most {limit} tokens, as the session holds, "
                                 f"got {len(prompts[0])} tokens" if single else
                                 f"prompt_ids: expected one prompt for a session, got a list of {len(prompts)}")
        tokens = generate(steps, prompts, backend=self.backend, max_new_tokens=max_new_tokens, context_limit=limit,
                          end_tokens=self.config.end_tokens if end_tokens is None else tuple(end_tokens),
                          sampling=sampling, on_limit=on_limit)
        return (int(token[0]) for token in tokens) if single else tokens

    def new_session(self, capacity=None):
        """A `Session` for `generate`: remembers a text from one call to the next.

        capacity: how many tokens it can hold; None is the context. Raises ValueError for more or none. With LoRA's
        updates it belongs to a copy into which they are merged.
        """
        limit = self.config.max_position_embeddings
        if capacity is None:
            capacity = limit
        if not (isinstance(capacity, numbers.Integral) and 1 <= capacity <= limit):
            raise ValueError(f"capacity: expected 1 to {limit} (max_position_embeddings), or None, got {capacity!r}")
        return new_session(self if self.lora is None else merge_lora(self), capacity)
