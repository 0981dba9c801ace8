# %% [markdown] slug="title"
# # 7 · Normalization
#
# Multiply a row of numbers by one matrix after another, and after a few dozen matrices the numbers have exploded or
# died. A LLaMA has dozens of layers and trains all the same. What stands between the layers, what does it do to the
# numbers, and what does it do to the gradients on their way back?
#
# **You will be able to** derive the backward pass of RMSNorm and of LayerNorm, one operation at a time and in fused
# form, say where each mean in it comes from, predict which change of the input each of the two survives, and read a
# training run that needs them and one that does not.
#
# **Before this:** NumPy, the chain rule, and from chapter 02 the vector-Jacobian product: a backward pass takes `dy`,
# the gradient of the loss with respect to a result, and returns the gradients with respect to what the result was made
# of. As everywhere in this course, `dx` is a gradient, an array of the shape of `x`, and never an infinitesimal.
#
# **Reading:** 50 minutes. **Core exercises:** 70 minutes (four of them). **Running time:** {running time}.

# %% slug="setup"
import inspect
import pydoc_data.topics
import warnings

import matplotlib.pyplot as plt
import numpy as np

import tinyllama as tl
from tinyllama import ops
from tinyllama.course.exercises import check, mine_or_reference

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"     # from the palette of Okabe & Ito
plt.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 90, "axes.grid": True,
                     "grid.alpha": 0.25, "legend.frameon": False})
np.set_printoptions(precision=4, suppress=True)

# %% [markdown] slug="by-hand"
# ## 7.1 One row, by hand
#
# Take a row of four numbers, $x = (5, -1, 7, 5)$. There are two ways to ask how large they are.
#
# *How far are they from zero?* Their squares are 25, 1, 49 and 25, with the mean 25. The root of that, the **root mean
# square** (rms), is 5.
#
# *How far are they from each other?* Their mean is 4. Without it they are 1, −5, 3 and 1, with the squares 1, 25, 9 and
# 1, whose mean, the **variance**, is 9. Its root, the **standard deviation**, is 3.

# %% slug="by-hand-numbers"
x = np.array([5.0, -1.0, 7.0, 5.0])                 # (D,)

rms = np.sqrt((x * x).mean())
mean = x.mean()
deviation = np.sqrt(((x - mean) ** 2).mean())
print(f"rms = {rms}   mean = {mean}   standard deviation = {deviation}")
print(f"rms² = {rms**2}   mean² + standard deviation² = {mean**2 + deviation**2}")

# %% [markdown] slug="by-hand-two-norms"
# The second line is no accident. The deviations from the mean add up to zero, so squaring mean + deviation leaves
# nothing mixed on average: being far from zero is being far from zero *together*, and then from each other.
#
# Each way of asking gives a way of normalising. **RMSNorm** divides the row by its rms. **LayerNorm** subtracts the
# mean and divides by the standard deviation. Write down both results before you run the next cell.

# %% slug="by-hand-results"
ones = np.ones(4)
by_rms, _ = ops.rmsnorm_forward(x, ones, eps=0.0)           # (D,)
by_deviation, _ = ops.layernorm_forward(x, ones, eps=0.0)   # (D,)
print("rmsnorm:  ", by_rms)
print("layernorm:", by_deviation)

# %% [markdown] slug="by-hand-what-remains"
# Both rows now have the mean square 1, and LayerNorm's has the mean 0 as well. In a model, each feature is then
# multiplied by a learned number, its `weight`, and LayerNorm adds another, its `bias`, so that the model can undo what
# it does not like, feature by feature. Here the weights were ones. The small number `eps`, here 0, waits until 7.8.

# %% slug="by-hand-figure"
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained", sharey=True)
rows = {"x": (x, GREY), "rmsnorm(x)": (by_rms, BLUE), "layernorm(x)": (by_deviation, ORANGE)}
for axis, (name, (row, colour)) in zip(axes, rows.items(), strict=True):
    axis.bar(range(4), row, color=colour)
    axis.axhline(row.mean(), color="black", linestyle="--", linewidth=1)
    axis.set(title=f"{name}\nmean {row.mean():.1f}, rms {np.sqrt((row * row).mean()):.1f}", xlabel="feature (index)",
             xticks=range(4))
axes[0].set_ylabel("value (no unit)")
plt.show()

# %% [markdown] slug="by-hand-caption"
# *Figure 7.1. The row from the cells above as bars, its mean as a dashed line, all on one scale. Left: x, with the
# mean 4. Middle: RMSNorm makes every bar five times shorter and changes nothing else; the mean is 0.8. Right: LayerNorm
# moves the bars until they balance around zero, and then makes them three times shorter. The bar that was the shortest,
# feature 1, is now the longest.*

# %% [markdown] slug="depth"
# ## 7.2 Forty matrices deep
#
# Why divide at all? Send a few rows through 40 random matrices. Each matrix multiplies the size of a row by some
# factor, its *gain*. (An element of the new row is a sum of $D$ products, and such a sum is about $\sqrt{D}$ times as
# large as one of them. So weights drawn with the standard deviation $\text{gain} / \sqrt{D}$ have that gain.)
# Whatever the factor is, forty layers raise it to the fortieth power.
#
# **Predict:** with gains of 0.8, 1.0 and 1.25, by how much do the rows shrink or grow? And the gradient, on its way
# back from the last layer to the first? Then the same with RMSNorm after each matrix.

# %% slug="depth-tower"
DEPTH, WIDTH = 40, 64


def rms_of(array):
    """The root mean square of all elements."""
    return np.sqrt((array * array).mean())


def tower(gain, normalised):
    """The rms of the rows after each layer, and that of their gradient before each: two lists of DEPTH + 1."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(3, WIDTH))                                                 # (B, D)
    weights = [gain * rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH) for _ in range(DEPTH)]
    sizes, caches = [rms_of(h)], []
    for weight in weights:
        h = h @ weight.T                                                            # (B, D) @ (D, D) -> (B, D)
        if normalised:
            h, cache = ops.rmsnorm_forward(h, np.ones(WIDTH))
            caches.append(cache)
        sizes.append(rms_of(h))
    dh = rng.normal(size=h.shape)                                                   # (B, D)
    gradient_sizes = [rms_of(dh)]
    for weight in reversed(weights):
        if normalised:
            dh, _ = ops.rmsnorm_backward(dh, caches.pop())
        dh = dh @ weight                                                            # (B, D) @ (D, D) -> (B, D)
        gradient_sizes.append(rms_of(dh))
    return sizes, gradient_sizes[::-1]


GAINS = (0.8, 1.0, 1.25)
towers = {(gain, normalised): tower(gain, normalised) for normalised in (False, True) for gain in GAINS}
for (gain, normalised), (sizes, gradient_sizes) in towers.items():
    print(f"gain {gain:4.2f}  {'with rmsnorm   ' if normalised else 'without        '}"
          f"rms of the last rows {sizes[-1]:9.1e}   of the first gradient {gradient_sizes[0]:9.1e}"
          f"   gain to the 40th {gain**DEPTH:7.1e}")
first_gradients = [towers[gain, True][1][0] for gain in GAINS]
assert np.ptp(first_gradients) < 1e-3 * first_gradients[0]

# %% [markdown] slug="depth-what-to-see"
# Without the norm both numbers follow the last column, up to the luck of the draw. With it the rows end at 1 whatever
# the gain, which was the purpose. The gradients are the surprise: they do not only stay in range, they are *the same*
# for all three gains, to one part in a thousand. Section 7.7 says why.

# %% slug="depth-figure"
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", sharey=True)
for gain, style in zip(GAINS, (":", "--", "-"), strict=True):
    for normalised, colour in ((False, ORANGE), (True, BLUE)):
        sizes, gradient_sizes = towers[gain, normalised]
        label = f"{'rmsnorm' if normalised else 'none'}, gain {gain}"
        axes[0].semilogy(range(DEPTH + 1), sizes, color=colour, linestyle=style, label=label)
        axes[1].semilogy(range(DEPTH + 1), gradient_sizes, color=colour, linestyle=style, label=label)
axes[0].set(title="Forward: the rows", xlabel="after layer (number)", ylabel="rms of the rows")
axes[1].set(title="Backward: read from the right", xlabel="after layer (number)", ylabel="rms of the gradient")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
plt.show()

# %% [markdown] slug="depth-caption"
# *Figure 7.2. The rms of the rows (left) and of their gradient (right) at each of 40 layers, on a logarithmic axis.
# Without a norm the lines are straight ramps: down for a gain of 0.8, up for 1.25, nearly level for 1.0. With RMSNorm
# all three lines lie on one another: level on the left, and on the right close to level.*

# %% [markdown] slug="steps"
# ## 7.3 RMSNorm, one operation a line
#
# A backward pass is easiest to derive when the forward pass does one thing a line. Below, `x` has the shape
# `(B, T, D)`: a batch of texts, their tokens, the features of a token. Each token is a row of its own.

# %% slug="steps-forward"
def rmsnorm_steps(x, weight, *, eps=1e-5):
    """RMSNorm in seven steps. x: (B, T, D), weight: (D,) -> y: (B, T, D), and everything that backward will need."""
    square = x * x                                              # (B, T, D)
    mean_square = square.mean(axis=-1, keepdims=True)           # (B, T, D) -> (B, T, 1)
    inside = mean_square + eps                                  # (B, T, 1)
    root = np.sqrt(inside)                                      # (B, T, 1)
    rstd = 1 / root                                             # (B, T, 1)
    n = x * rstd                                                # (B, T, D) · (B, T, 1) -> (B, T, D)
    y = n * weight                                              # (B, T, D) · (D,) -> (B, T, D)
    return y, (x, weight, root, rstd, n)


# %% [markdown] slug="steps-rules"
# `rstd` is the name that the library uses for the factor itself, one over the root.
#
# Now read the forward pass upwards. For each line, the gradient of its left side is known, and you pass it on to
# everything on its right side, by three rules:
#
# 1. **A product** hands each factor the gradient times the other factor. A function such as the root hands on the
#    gradient times its derivative.
# 2. **What was broadcast is summed.** `rstd` has one number a row and is used in $D$ places; each of them sends back a
#    gradient, and they add up. `weight` is used by all $B \cdot T$ rows: sum over those. The mean is the reverse: one
#    result made of $D$ elements, each with the factor $1/D$, so its gradient goes back to all $D$, divided by $D$.
# 3. **What was used twice collects twice.** `x` appears in the first line and in the sixth. Its gradient is the sum of
#    both contributions.

# %% slug="steps-backward"
def rmsnorm_steps_backward(dy, cache):
    """The seven steps, last first. dy: (B, T, D) -> dx: (B, T, D), dweight: (D,)."""
    x, weight, root, rstd, n = cache
    D = x.shape[-1]
    dn = dy * weight                                            # y = n * weight            (B, T, D)
    dweight = (dy * n).sum(axis=(0, 1))                         #     summed over the rows  (B, T, D) -> (D,)
    dx = dn * rstd                                              # n = x * rstd              (B, T, D)
    drstd = (dn * x).sum(axis=-1, keepdims=True)                #     summed over the row   (B, T, D) -> (B, T, 1)
    droot = -drstd / root**2                                    # rstd = 1 / root           (B, T, 1)
    dinside = droot / (2 * root)                                # root = sqrt(inside)       (B, T, 1)
    dmean_square = dinside                                      # inside = mean_square + eps        (B, T, 1)
    dsquare = np.broadcast_to(dmean_square / D, x.shape)        # mean_square = mean(square)    (B, T, 1) -> (B, T, D)
    dx = dx + dsquare * 2 * x                                   # square = x * x: x for the second time      (B, T, D)
    return dx, dweight


# %% [markdown] slug="steps-check"
# Is it right? The gradient check of chapter 02 compares it with central differences in float64. **Which error should
# you expect?** The step is $h = 10^{-5}$. Cutting the series off costs about $h^2 = 10^{-10}$, and rounding about
# $10^{-16} / h = 10^{-11}$. So a right derivative shows an error near $10^{-10}$, and a wrong one an error near 1. We
# assert $10^{-8}$, which leaves two digits for luck.
#
# The sizes are all different (2, 3 and 4), the weights are neither 0 nor 1, and the `dy` that goes in is random: an
# array of ones, or a square array, would hide some mistakes.

# %% slug="steps-gradcheck"
rng = np.random.default_rng(1)
x3 = rng.normal(size=(2, 3, 4))                                 # (B, T, D)
weight4 = rng.normal(1.0, 0.5, size=4)                          # (D,)

report = tl.gradcheck(rmsnorm_steps, rmsnorm_steps_backward, x3, weight4)
print(report)
assert report.error < 1e-8

# %% [markdown] slug="steps-what-to-see"
# For each argument, `expected` is the derivative in one random direction by differences, and `received` the same by
# your backward pass. `error` is the distance between them, relative to the largest of the two and `norm`, the length of
# the gradient. `Jacobian` is the error over every single derivative. Both are where we expected them.

# %% [markdown] slug="fused"
# ## 7.4 The fused form
#
# Nine lines are right, but they make nine arrays. Put the second contribution to `dx` into one line, from its last
# step back to its first. Here `x`, `n` and `dn` have the shape `(B, T, D)`; all else is one number a row, `(B, T, 1)`.
#
# 1. The last two lines give $2x \cdot \frac{1}{D} \cdot \text{dinside}$.
# 2. With $\text{root} = 1 / \text{rstd}$, the two lines before say
#    $\text{dinside} = -\frac{1}{2}\, \text{rstd}^3 \cdot \text{drstd}$.
# 3. Together: $-x \cdot \text{rstd}^3 \cdot \frac{1}{D}\, \text{drstd}$. The 2 is gone.
# 4. $\text{drstd}$ is a sum over the row, and $\frac{1}{D}$ of a sum is a mean:
#    $-x \cdot \text{rstd}^3 \cdot \text{mean}(\text{dn} \cdot x)$.
#    **This is where the mean comes from:** its sum from broadcasting `rstd`, its $1/D$ from the mean of the squares.
# 5. Give one `rstd` to each `x`, since $x \cdot \text{rstd} = n$:
#    $-\text{rstd} \cdot n \cdot \text{mean}(\text{dn} \cdot n)$.
# 6. Add the first contribution, $\text{rstd} \cdot \text{dn}$:
#
# $$\text{dx} = \text{rstd} \cdot \big(\text{dn} - n \cdot \text{mean}(\text{dn} \cdot n)\big),
# \qquad \text{dn} = \text{dy} \cdot \text{weight},
# \qquad \text{dweight} = \sum_{\text{rows}} \text{dy} \cdot n$$
#
# Read it aloud: *take the gradient, remove from it what points along $n$, and scale it by the factor that scaled the
# row.* The middle term is what points along $n$, since $\text{sum}(n^2)$ is $D$ but for `eps`. It would make the whole
# row longer or shorter, and the norm does not let that through.

# %% [markdown] slug="exercise-rmsnorm-backward"
# ### Exercise 7.1 · The fused backward pass
#
# *Medium, 20 minutes.* Write the three formulas of step 6 as code, for `x` with **any** number of axes before the last.
# The cache is that of the library's `rmsnorm_forward`; it does not hold `n`, because one product makes it again.
#
# Run your cell and then the one below it, which says what is right and what is not, as often as you like. The chapter
# goes on without your answer, too.
#
# <details><summary>Hint 1</summary>Begin with n and dn. Which of the two has the weight in it?</details>
# <details><summary>Hint 2</summary>The mean is along the last axis, and needs keepdims=True to be broadcast.</details>
# <details><summary>Hint 3</summary>dweight sums over every axis but the last. (dy * n).reshape(-1, D) has all rows
# below one another, however many axes there were.</details>

# %% slug="rmsnorm-backward" nbgrader={"grade": false, "grade_id": "rmsnorm-backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rmsnorm_backward(dy, cache, needs=None):
    """Gradients of x and weight. dy: (..., D) -> dx: (..., D), dweight: (D,). Ignore `needs`, an option of models."""
    x, weight, rstd = cache                                     # (..., D), (D,), (..., 1)
    ### BEGIN SOLUTION
    n = x * rstd                                                # (..., D)
    dn = dy * weight                                            # (..., D)
    dweight = (dy * n).reshape(-1, x.shape[-1]).sum(axis=0)     # (..., D) -> (N, D) -> (D,)
    dx = rstd * (dn - n * (dn * n).mean(axis=-1, keepdims=True))
    return dx, dweight
    ### END SOLUTION


# %% slug="rmsnorm-backward-check" nbgrader={"grade": true, "grade_id": "rmsnorm-backward-check", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
check("rmsnorm_backward", rmsnorm_backward)

# %% [markdown] slug="layernorm"
# ## 7.5 LayerNorm: one step more
#
# LayerNorm first moves each row to the mean 0, and then does what RMSNorm does: the variance is the mean square of what
# is left. So there is one new operation, *centring*.

# %% slug="layernorm-forward"
def layernorm_steps(x, weight, bias, *, eps=1e-5):
    """LayerNorm in steps. x: (B, T, D), weight and bias: (D,) -> y: (B, T, D)."""
    mean = x.mean(axis=-1, keepdims=True)                       # (B, T, D) -> (B, T, 1)
    centred = x - mean                                          # (B, T, D) - (B, T, 1) -> (B, T, D)
    variance = (centred * centred).mean(axis=-1, keepdims=True)         # (B, T, D) -> (B, T, 1)
    rstd = 1 / np.sqrt(variance + eps)                          # (B, T, 1)
    n = centred * rstd                                          # (B, T, D)
    return n * weight + bias                                    # (B, T, D)


bias4 = rng.normal(size=4)                                      # (D,)
centred3 = x3 - x3.mean(axis=-1, keepdims=True)                 # (B, T, D)
via_rmsnorm, _ = ops.rmsnorm_forward(centred3, weight4)         # (B, T, D)
difference = np.abs(layernorm_steps(x3, weight4, bias4) - (via_rmsnorm + bias4)).max()
print(f"layernorm(x) and rmsnorm(x - mean) + bias differ by at most {difference:.0e}")
assert difference < 1e-14

# %% [markdown] slug="layernorm-centring"
# So all that is left to derive is the backward pass of `centred = x - mean(x)`, by the same three rules:
#
# 1. `x` itself: `dx = dcentred`.
# 2. `mean` was broadcast over the row and has a minus: `dmean = -sum(dcentred)`, shape `(B, T, 1)`.
# 3. `mean(x)` sends its gradient to all $D$ elements, divided by $D$: `dx = dcentred + dmean / D`.
# 4. Together, `dx = dcentred - mean(dcentred)`. The backward pass of centring is centring.

# %% [markdown] slug="exercise-layernorm-backward"
# ### Exercise 7.2 · LayerNorm, backwards
#
# *Medium, 25 minutes.* Write the backward pass of LayerNorm: the steps of 7.3, then centring, or any other way that
# gives the right numbers. The cache is that of the library's `layernorm_forward`; `has_bias` says whether there was a
# bias, and if not, its gradient is `None`. Again any number of axes.
#
# <details><summary>Hint 1</summary>From n on, every line of your exercise 7.1 still holds, with centred in the place of
# x. What it returned as dx is now dcentred.</details>
# <details><summary>Hint 2</summary>bias was broadcast over the rows, like weight, but it was added and not multiplied:
# which sum is dbias?</details>
# <details><summary>Hint 3</summary>The order is that of the arguments: dx, dweight, dbias.</details>

# %% slug="layernorm-backward" nbgrader={"grade": false, "grade_id": "layernorm-backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def layernorm_backward(dy, cache, needs=None):
    """Gradients of x, weight and bias. dy: (..., D) -> dx: (..., D), dweight: (D,), dbias: (D,) or None."""
    x, weight, mean, rstd, has_bias = cache                     # (..., D), (D,), (..., 1), (..., 1), True or False
    ### BEGIN SOLUTION
    n = (x - mean) * rstd                                       # (..., D)
    dn = dy * weight                                            # (..., D)
    dbias = dy.reshape(-1, x.shape[-1]).sum(axis=0) if has_bias else None       # (..., D) -> (N, D) -> (D,)
    dweight = (dy * n).reshape(-1, x.shape[-1]).sum(axis=0)     # (..., D) -> (N, D) -> (D,)
    dcentred = rstd * (dn - n * (dn * n).mean(axis=-1, keepdims=True))          # (..., D)
    dx = dcentred - dcentred.mean(axis=-1, keepdims=True)       # (..., D)
    return dx, dweight, dbias
    ### END SOLUTION


# %% slug="layernorm-backward-check" nbgrader={"grade": true, "grade_id": "layernorm-backward-check", "locked": true, "points": 9, "schema_version": 3, "solution": false, "task": false}
check("layernorm_backward", layernorm_backward)

# %% [markdown] slug="layernorm-fused"
# **The fused form.** Take `dcentred`, which has the form of `dx` in 7.4, put it into step 4 above, and ask for its
# mean:
#
# 1. $\text{mean}(\text{dcentred}) = \text{rstd} \cdot \big(\text{mean}(\text{dn})
#    - \text{mean}(n) \cdot \text{mean}(\text{dn} \cdot n)\big)$, since `rstd` and the last mean are one number a row.
# 2. But $\text{mean}(n) = 0$: the row was centred. Only $\text{rstd} \cdot \text{mean}(\text{dn})$ is left.
# 3. Subtract it:
#
# $$\text{dx} = \text{rstd} \cdot
# \big(\text{dn} - \text{mean}(\text{dn}) - n \cdot \text{mean}(\text{dn} \cdot n)\big)$$
#
# Two means, and now you know both: the first because every element moves the *mean* of its row, the second because
# every element moves the *size* of its row. RMSNorm has no mean to move, and so it has only the second.

# %% [markdown] slug="library"
# ## 7.6 What the library does
#
# This is the code that runs when you train a model with this library, printed from the installed package. Compare the
# two backward passes line by line.

# %% slug="library-rmsnorm"
print(inspect.getsource(ops.rmsnorm_forward))
print(inspect.getsource(ops.rmsnorm_backward))

# %% slug="library-layernorm"
print(inspect.getsource(ops.layernorm_forward))
print(inspect.getsource(ops.layernorm_backward))

# %% [markdown] slug="library-check"
# They differ from the formulas above in two ways only: `xp` is NumPy, or the library of whatever array came in, and
# `needs` skips a gradient that nobody will use. `as_rows(a)` is `a.reshape(-1, D)`, and the caches are tuples whose
# elements have names.
#
# **Expect** the errors of 7.3 again: near $10^{-10}$, below $10^{-8}$ for certain.

# %% slug="library-gradcheck"
for forward, backward, arrays in ((ops.rmsnorm_forward, ops.rmsnorm_backward, (x3, weight4)),
                                  (ops.layernorm_forward, ops.layernorm_backward, (x3, weight4, bias4))):
    report = tl.gradcheck(forward, backward, *arrays)
    print(report, end="\n\n")
    assert report.error < 1e-8

# %% [markdown] slug="library-what-to-see"
# Both tables are where they should be: no term was lost. Leave one out, such as the mean of `dn`, and the check says so
# at once, and where:

# %% slug="library-broken"
def without_the_first_mean(dy, cache):
    """LayerNorm's backward pass as if the mean of the row did not depend on x."""
    x, weight, mean, rstd, _ = cache
    n, dn = (x - mean) * rstd, dy * weight
    _, dweight, dbias = ops.layernorm_backward(dy, cache)
    return rstd * (dn - n * (dn * n).mean(axis=-1, keepdims=True)), dweight, dbias


try:
    tl.gradcheck(ops.layernorm_forward, without_the_first_mean, x3, weight4, bias4)
except tl.GradientError as error:
    print(error)

# %% [markdown] slug="survives"
# ## 7.7 Which survives what
#
# Change the input in some way. If the output stays as it was, the norm has *survived* the change: it cannot see it, and
# nothing behind it can. This is what a norm is for, and what it costs.

# %% [markdown] slug="exercise-survives"
# ### Exercise 7.3 · Predict
#
# *Easy, 10 minutes.* Take `x` with two rows and numbers of the order of 1, weights of one, and the default
# `eps=1e-5`. Write `True` where the output stays the same, to three digits, and `False` where it does not. Do it on
# paper, from the formulas; the cell below the check shows the numbers.
#
# <details><summary>Hint 1</summary>Put the changed x into the formula and see whether the change cancels.</details>
# <details><summary>Hint 2</summary>The last one: what is mean(x²) then, and how large is eps beside it?</details>

# %% slug="survives-table" nbgrader={"grade": false, "grade_id": "survives-table", "locked": false, "schema_version": 3, "solution": true, "task": false}
survives = {
    "layernorm": {"3 * x": None, "x + 5": None, "-x": None, "one row * 10": None, "one feature * 10": None,
                  "x / 1000": None},
    "rmsnorm": {"3 * x": None, "x + 5": None, "-x": None, "one row * 10": None, "one feature * 10": None,
                "x / 1000": None},
}
### BEGIN SOLUTION
survives = {
    "layernorm": {"3 * x": True, "x + 5": True, "-x": False, "one row * 10": True, "one feature * 10": False,
                  "x / 1000": False},
    "rmsnorm": {"3 * x": True, "x + 5": False, "-x": False, "one row * 10": True, "one feature * 10": False,
                "x / 1000": False},
}
### END SOLUTION

# %% slug="survives-check" nbgrader={"grade": true, "grade_id": "survives-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check("survives", survives)

# %% [markdown] slug="survives-explained" tags=["solution"]
# A common factor cancels in both, also when only one row has it, since each row has an `rstd` of its own. A common
# summand leaves with the mean, which only LayerNorm subtracts. The sign stays: dividing by a size does not remove it. A
# single feature changes the size of its row and so every element of the output. And the last: with numbers of order
# 1, `mean(x²)` of a thousandth of `x` is about $10^{-6}$, well below `eps`, so that `eps` decides the size.

# %% slug="survives-numbers"
x2 = np.array([[5.0, -1.0, 7.0, 5.0], [3.0, 9.0, 1.0, 3.0]]) / 4       # (2, 4): numbers of the order of 1
changes = {
    "3 * x": 3 * x2, "x + 5": x2 + 5, "-x": -x2, "one row * 10": x2 * [[10], [1]],
    "one feature * 10": x2 * [10, 1, 1, 1], "x / 1000": x2 / 1000,
}
print(f"{'change':<18}{'layernorm moves by':>20}{'rmsnorm moves by':>20}")
for change, changed in changes.items():
    moved = [np.abs(forward(changed, ones)[0] - forward(x2, ones)[0]).max()
             for forward in (ops.layernorm_forward, ops.rmsnorm_forward)]
    print(f"{change:<18}{moved[0]:>20.6f}{moved[1]:>20.6f}")

# %% [markdown] slug="survives-what-to-see"
# Compare with your table. Only `x + 5` tells the two norms apart: it is what LayerNorm gets for its extra mean. Where a
# number is small but not zero, about a hundred-thousandth, you see `eps`: it is why the survival is not exact. In the
# last row `eps` is no longer small beside the mean square, and both norms let the scale through.

# %% [markdown] slug="orthogonal"
# ### What the gradient knows of it
#
# If the output does not move when `x` is stretched, then stretching does not change the loss, and the gradient can
# have nothing to say about it: **`dx` is orthogonal to `x`**. In the same way, if the output does not move when a
# constant is added to a row, the gradient must be orthogonal to a row of ones: **its sum is zero**. You can read both
# off the fused formulas: they subtract just what points along $n$, and along the ones.
#
# With `eps` the first is nearly true. Multiply the fused formula by `x` and sum over the row: since `x · rstd` is `n`,
# you get `sum(dn · n) · (1 - mean(n²))`. And `mean(n²)` is `mean(x²) · rstd²`, which is `1 - eps · rstd²`. What is left
# is `eps · rstd² · sum(dn · n)`. **Expect** about `eps` times a number of order 1, and for the sum of LayerNorm's `dx`
# rounding error.

# %% slug="orthogonal-numbers"
dy3 = rng.normal(size=x3.shape)                                         # (B, T, D)

_, cache = ops.rmsnorm_forward(x3, weight4)
dx3, _ = ops.rmsnorm_backward(dy3, cache)                               # (B, T, D)
n3, dn3 = x3 * cache.rstd, dy3 * weight4                                # (B, T, D), (B, T, D)
along_x = (dx3 * x3).sum(axis=-1)                                       # (B, T)
left_over = 1e-5 * cache.rstd[..., 0] ** 2 * (dn3 * n3).sum(axis=-1)    # (B, T)
print("rmsnorm, sum(dx · x) of each row:\n", np.array2string(along_x, formatter={"float": "{:9.1e}".format}))
print(f"distance from eps · rstd² · sum(dn · n): {np.abs(along_x - left_over).max():.0e}")
lengths = np.linalg.norm(dx3, axis=-1) * np.linalg.norm(x3, axis=-1)    # (B, T)
print(f"for comparison, |dx| · |x| is up to {lengths.max():.1f}")

_, cache = ops.layernorm_forward(x3, weight4, bias4)
dx3, _, _ = ops.layernorm_backward(dy3, cache)                          # (B, T, D)
print(f"layernorm, largest |sum(dx)| of a row: {np.abs(dx3.sum(axis=-1)).max():.0e}")
assert np.abs(along_x - left_over).max() < 1e-12
assert np.abs(dx3.sum(axis=-1)).max() < 1e-12

# %% [markdown] slug="orthogonal-picture"
# With two features you can see it. The next cell puts three rows on each of three rays and draws the gradient of each,
# all with the same `dy`.

# %% slug="orthogonal-figure"
angles = np.array([0.35, 1.2, 2.3])                                     # one ray each, in radians
distances = np.array([1.0, 2.0, 4.0])
points = (distances[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)).reshape(-1, 2)    # (9, 2)
normalised, cache = ops.rmsnorm_forward(points, np.ones(2))
gradients, _ = ops.rmsnorm_backward(np.tile([1.0, -0.3], (9, 1)), cache)                                    # (9, 2)

figure, axis = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
circle = np.sqrt(2) * np.stack([np.cos(t := np.linspace(0, np.pi, 100)), np.sin(t)])
axis.plot(*circle, color=BLUE, linestyle="--", label="rows with rms 1")
for angle in angles:
    axis.plot([0, 4.3 * np.cos(angle)], [0, 4.3 * np.sin(angle)], color=GREY, linewidth=0.8)
axis.plot(*points.T, "o", color=GREY, markersize=4, label="x")
axis.plot(*normalised.T, "s", color=BLUE, label="rmsnorm(x)")
axis.quiver(*points.T, *gradients.T, color=ORANGE, angles="xy", scale_units="xy", scale=1, width=0.006, label="dx")
axis.set(title="Where RMSNorm sends a row, and its gradient", aspect="equal",
         xlabel="feature 0 (no unit)", ylabel="feature 1 (no unit)", xlim=(-3.4, 4.6), ylim=(-0.8, 4.4))
axis.legend(loc="upper right")
plt.show()

# %% [markdown] slug="orthogonal-caption"
# *Figure 7.3. Rows of two features as grey dots, three on each of three rays from the origin. RMSNorm sends all the
# dots of a ray to one blue square, where the ray meets the half circle of rows with rms 1. The orange arrows, the
# gradients, stand at right angles to their ray. Twice as far out, they are half as long.*

# %% [markdown] slug="scale-of-weights"
# ### Why the size of a weight matrix stops mattering
#
# Now put a matrix before the norm: `y = rmsnorm(x @ W.T)`. Ten times larger weights give ten times larger rows, and the
# norm removes the ten. **Predict** three things, for `W` and for `10 · W`: how far apart the outputs are, how the
# gradients `dW` compare, and the angle between `dW` and `W`. Then a fourth: does a step of gradient descent,
# `W - dW`, make `W` longer or shorter?

# %% slug="scale-of-weights-numbers"
rng = np.random.default_rng(2)
x5, W = rng.normal(size=(6, 5)), rng.normal(size=(4, 5))                # (N, I), (O, I)
dy6 = rng.normal(size=(6, 4))                                           # (N, O)


def output_and_gradient(W):
    """y = rmsnorm(x @ W.T), and the gradient of W for the fixed dy. W: (O, I) -> y: (N, O), dW: (O, I)."""
    y, cache = ops.rmsnorm_forward(x5 @ W.T, np.ones(4))                # (N, I) @ (I, O) -> (N, O)
    dh, _ = ops.rmsnorm_backward(dy6, cache)                            # (N, O)
    return y, dh.T @ x5                                                 # (O, N) @ (N, I) -> (O, I)


y_small, dW_small = output_and_gradient(W)
y_large, dW_large = output_and_gradient(10 * W)
cosine = (dW_small * W).sum() / np.linalg.norm(dW_small) / np.linalg.norm(W)
print(f"the outputs differ by at most {np.abs(y_large - y_small).max():.0e}")
print(f"dW is {np.linalg.norm(dW_small) / np.linalg.norm(dW_large):.3f} times as long for W as for 10 W")
print(f"cosine of the angle between dW and W: {cosine:.0e}")
print(f"length of W: {np.linalg.norm(W):.3f}, of W - dW: {np.linalg.norm(W - dW_small):.3f}")
assert abs(cosine) < 1e-4
assert np.linalg.norm(W - dW_small) > np.linalg.norm(W)

# %% [markdown] slug="scale-of-weights-what-to-see"
# The output does not know the size of `W`. The gradient knows it, and is divided by it: this is why the three gains
# of Figure 7.2 gave one curve, as each matrix multiplies the gradient by its gain and the norm behind it divides by it.
#
# And the gradient stands at a right angle to `W`: with `h = x @ W.T`, `sum(dW · W)` is `sum(dh · h)`, and each row of
# `dh` is orthogonal to its row of `h`. A step of plain gradient descent therefore goes sideways and makes `W` *longer*,
# by Pythagoras, never shorter. A longer matrix gets smaller gradients, and is turned less by a step of the same length.
# The second is what counts for AdamW, the optimiser of 7.9, whose steps hardly depend on the size of the gradient. So a
# matrix that moves too fast slows itself down: a brake against learning rates that are too high. The experiment in 7.9
# shows what it may be worth.
#
# Take care with "stops mattering": the size does not matter to the *output*, but it does to how far a step of a given
# length turns `W`. And the argument is about a matrix with a norm right behind it. In a LLaMA, what stands before a
# norm is the sum of all that the layers have added so far, the residual stream, and not the product of one matrix.

# %% [markdown] slug="breaks"
# ## 7.8 Numbers that break
#
# So far the numbers were kind. Here are rows that are not.
#
# **A row of zeros, and a row of equal numbers.** Without `eps` the first divides zero by zero, in both norms; the
# second does so in LayerNorm. With `eps` neither does. **Predict** the outputs, and the length of the gradient for a
# `dy` of length 1.

# %% slug="breaks-constant"
dy1 = np.array([0.5, -0.5, 0.5, -0.5])                                  # (D,), of length 1
for name, row in (("zeros", np.zeros(4)), ("all 7", np.full(4, 7.0)), ("by hand", x)):
    for norm, forward, backward in (("rmsnorm", ops.rmsnorm_forward, ops.rmsnorm_backward),
                                    ("layernorm", ops.layernorm_forward, ops.layernorm_backward)):
        y, cache = forward(row, ones)
        dx = backward(dy1, cache)[0]                                    # (D,)
        print(f"{name:<9}{norm:<11}y = {y!s:<34}length of dx = {np.linalg.norm(dx):.3f}")

# %% [markdown] slug="breaks-constant-what-to-see"
# Nothing divides by zero. But look at the gradients: where nothing is left to divide, `rstd` is
# $1/\sqrt{\text{eps}}$, and the gradient becomes hundreds of times longer. `eps` is not there to be small; it is the
# limit on this amplification.
#
# **A large common offset, in float32.** Add 10,000 to the row. Its variance is still 9, and LayerNorm should not
# notice. There are two formulas for the variance that are equal on paper: the mean square of the centred row, and
# $\text{mean}(x^2) - \text{mean}(x)^2$, which needs only one pass over the data. **Predict** what each gives.

# %% slug="breaks-offset"
for offset in (0, 100, 1_000, 10_000, 18_000):
    row = (x + offset).astype(np.float32)                               # (D,), exact in float32
    centred = row - row.mean()                                          # (D,)
    two_passes = (centred * centred).mean()
    one_pass = (row * row).mean() - row.mean() ** 2
    spacing = np.spacing((row * row).mean())
    print(f"offset {offset:>6}:  two passes {two_passes:.3f}   one pass {one_pass:7.3f}   "
          f"spacing of float32 at mean(x²): {spacing:.1e}")
assert one_pass < 0

# %% [markdown] slug="breaks-offset-what-to-see"
# The second formula subtracts two large numbers that agree in all the digits float32 has: *cancellation*. The last
# column says how coarse float32 is at that size; do not count on a result to be nearer than a few such steps. It may
# even be negative, as in the last line, and then its root is not a number. Centring first subtracts while the numbers
# still have their digits.
#
# **Large numbers.** RMSNorm survives `3 * x`. Does it survive any factor?

# %% slug="breaks-large"
for dtype, factor in ((np.float32, 1e10), (np.float32, 1e20), (np.float16, 10), (np.float16, 100)):
    row = (factor * x).astype(dtype)                                    # (D,)
    with np.errstate(over="ignore"):        # NumPy would warn that x * x is too large; look at the numbers instead
        y, _ = ops.rmsnorm_forward(row, np.ones(4, dtype))
    print(f"{np.dtype(dtype).name}: square of the largest element {float(row.max()) ** 2:.1e}, "
          f"largest number {float(np.finfo(dtype).max):.5g}, y = {y}")

# %% [markdown] slug="breaks-large-what-to-see"
# A square has twice the exponent. Where it does not fit, `mean(x²)` is infinite, `rstd` is 0, and the row silently
# becomes zeros. In float32 you will not meet such numbers in a model that still works. In float16, whose largest number
# is 65,504, an element of 300 is enough, which is why models in half precision compute their norms in float32.

# %% [markdown] slug="exercise-row-variance"
# ### Exercise 7.4 · The colleague's variance
#
# *Medium, 15 minutes.* A colleague made LayerNorm faster with the one-pass formula, and it passes the gradient check.
# (In float64, with numbers of order 1: why would it not?) Now and then a training run ends with a loss that is not a
# number. Repair it: the variance of each row, for any number of axes, in the dtype of `x`, and right for a
# float32 row around 10,000 and a float64 row around 1,000,000,000.
#
# <details><summary>Hint 1</summary>Clipping at zero, or taking the absolute value, removes the symptom. Is the variance
# right then?</details>
# <details><summary>Hint 2</summary>Computing in float64 helps float32. What helps float64?</details>

# %% slug="row-variance-colleague"
def colleagues_variance(x):
    """The variance of each row in one pass. x: (..., D) -> (..., 1)."""
    return (x * x).mean(axis=-1, keepdims=True) - x.mean(axis=-1, keepdims=True) ** 2


check("row_variance", colleagues_variance)

# %% slug="row-variance" nbgrader={"grade": false, "grade_id": "row-variance", "locked": false, "schema_version": 3, "solution": true, "task": false}
def row_variance(x):
    """The variance of each row, whatever its offset. x: (..., D) -> (..., 1)."""
    ### BEGIN SOLUTION
    centred = x - x.mean(axis=-1, keepdims=True)                # (..., D)
    return (centred * centred).mean(axis=-1, keepdims=True)     # (..., D) -> (..., 1)
    ### END SOLUTION


# %% slug="row-variance-check" nbgrader={"grade": true, "grade_id": "row-variance-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check("row_variance", row_variance)

# %% [markdown] slug="row-variance-explained" tags=["solution"]
# The gradient check could not find the fault: it works in float64 with numbers near 1, where both formulas agree.
# Clipping at zero gives a row whose variance is 9 the variance 0, and a norm that divides by $\sqrt{\text{eps}}$
# instead of by 3. Another way out is Welford's running update of mean and variance, one pass that never subtracts large
# squares.

# %% [markdown] slug="experiment"
# ## 7.9 On real text: what does a norm buy?
#
# Three LLaMAs, equal but for their norms: **none**, **layernorm**, **rmsnorm**. They are small (four layers of 32
# features) and read Python's own reference manual, which is on every machine that has Python, one character at a
# time. Chapter 11 explains the rest of the model; here it is a box with a part that can be replaced:
# `with_ops` gives a model other functions for one operation. For `none`, RMSNorm becomes a multiplication by its
# weight, so that the parameters are the same as those of `rmsnorm`. (Another version of Python has a slightly different
# manual, and another processor rounds a little differently: your numbers will not be exactly these.)
#
# The **loss** is the mean of $-\log p$, where $p$ is the probability that the model gave to the character that came
# next. With the natural logarithm its unit is the *nat*.

# %% slug="experiment-text"
text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
characters, ids = np.unique(list(text), return_inverse=True)            # (V,), (N,)
boundary = int(0.9 * len(ids))
training_ids, validation_ids = ids[:boundary], ids[boundary:]
frequency = np.bincount(training_ids, minlength=len(characters)) / len(training_ids)        # (V,)
frequency = frequency[frequency > 0]
BY_FREQUENCY, EVENLY = -(frequency * np.log(frequency)).sum(), np.log(len(characters))
print(f"{len(ids)} characters, {len(characters)} different ones")
print(f"loss of guessing evenly: {EVENLY:.2f};  by how frequent each character is: {BY_FREQUENCY:.2f} (nats)")

# %% slug="experiment-models"
def identity_forward(x, weight, *, eps):
    """No norm: y = x · weight. x: (B, T, D), weight: (D,) -> (B, T, D)."""
    return x * weight, (x, weight)


def identity_backward(dy, cache, needs=None):
    """dy: (B, T, D) -> dx: (B, T, D), dweight: (D,)."""
    x, weight = cache
    return dy * weight, (dy * x).sum(axis=(0, 1))


NUMPY = tl.load_backend("numpy")
BACKENDS = {
    "none": NUMPY.with_ops(rmsnorm_forward=identity_forward, rmsnorm_backward=identity_backward),
    "layernorm": NUMPY.with_ops(layernorm_backward=mine_or_reference("layernorm_backward", layernorm_backward)),
    "rmsnorm": NUMPY.with_ops(rmsnorm_backward=mine_or_reference("rmsnorm_backward", rmsnorm_backward)),
}

# %% [markdown] slug="experiment-mine"
# The lines above say whose backward passes are about to train: if your answers to exercises 7.1 and 7.2 are right, they
# are yours.

# %% slug="experiment-train"
CONTEXT, BATCH, STEPS = 32, 8, 80


def windows(ids, starts):
    """The windows of text that begin at `starts`, and the characters that come next. -> (B, T), (B, T)."""
    positions = starts[:, None] + np.arange(CONTEXT)                    # (B, T)
    return ids[positions], ids[positions + 1]


# A run that is lost overflows on its way, and NumPy would print a warning for each operation that does.
warnings.filterwarnings("ignore", "(overflow|invalid value|divide by zero) encountered", RuntimeWarning)
VALIDATION = windows(validation_ids, np.linspace(0, len(validation_ids) - CONTEXT - 1, 64).astype(int))


def train(norm, learning_rate, seed, *, warm_up=1, initializer_range=0.1, history=None):
    """Train one small LLaMA, and return its loss on the validation text, infinity if the run was lost.

    `history` may be a list, to which the loss of each step is appended.
    """
    config = tl.LlamaConfig(vocab_size=len(characters), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                            num_attention_heads=4, max_position_embeddings=CONTEXT, initializer_range=initializer_range,
                            norm="layernorm" if norm.startswith("layernorm") else "rmsnorm")
    model = tl.Llama(config, backend=BACKENDS[norm], seed=seed, workers=2)
    optimizer = tl.AdamW(model, learning_rate=learning_rate)
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        loss, _ = model.loss_and_grads(*windows(training_ids, rng.integers(len(training_ids) - CONTEXT, size=BATCH)))
        if history is not None:
            history.append(float(loss))
        if not np.isfinite(loss):
            return np.inf
        optimizer.learning_rate = learning_rate * min(1, (step + 1) / warm_up)
        optimizer.step(max_grad_norm=1.0)
    loss = float(model.loss(*VALIDATION))
    return loss if np.isfinite(loss) else np.inf


# %% [markdown] slug="experiment-predict"
# Each model is trained for 80 steps with AdamW at four learning rates, each with three seeds, which draw both the first
# weights and the order of the text. The first weights have a standard deviation of 0.1; LLaMA's usual 0.02 is made for
# rows far longer than 32. A run is lost when its loss is infinite or not a number. All gradients are clipped to a
# length of 1, for all three alike.
#
# **Predict, and write it down:** (a) At which rates does `none` fail? (b) At which rates does it come close to the
# others? (c) Does RMSNorm beat LayerNorm, or the other way round, and at which rates?

# %% slug="experiment-run"
NORMS, RATES, SEEDS = ("none", "layernorm", "rmsnorm"), (0.001, 0.01, 0.03, 0.1), (0, 1, 2)
losses = {(norm, rate): np.array([train(norm, rate, seed) for seed in SEEDS])       # (3,), one a seed
          for norm in NORMS for rate in RATES}

print("validation loss (nats per character) for three seeds")
for rate in RATES:
    for norm in NORMS:
        runs = "  ".join(f"{loss:.2f}" if np.isfinite(loss) else "lost" for loss in losses[norm, rate])
        print(f"learning rate {rate:<6} {norm:<10} {runs}")

# %% [markdown] slug="experiment-claims"
# What may you conclude from three seeds? Only what holds for all of them. The next cell asserts two statements, those
# of its first two lines; about the other lines it asserts nothing.

# %% slug="experiment-assertions"
with_norm = {rate: np.concatenate([losses["layernorm", rate], losses["rmsnorm", rate]]) for rate in RATES}     # (6,)
assert with_norm[0.001].max() < losses["none", 0.001].min()
assert losses["none", 0.1].min() > EVENLY > with_norm[0.1].max()
print(f"rate 0.001: the worst with a norm reached {with_norm[0.001].max():.2f}, "
      f"the best without {losses['none', 0.001].min():.2f}")
print(f"rate 0.1:   every run without was lost or ended above {EVENLY:.2f}, every run with a norm below "
      f"{with_norm[0.1].max() + 0.005:.2f}")
for rate in (0.01, 0.03):
    without = losses["none", rate]
    print(f"rate {rate}:  without {without.min():.2f} to {without.max():.2f}, "
          f"with {with_norm[rate].min():.2f} to {with_norm[rate].max():.2f}")
for rate in RATES:
    pair = losses["layernorm", rate], losses["rmsnorm", rate]
    print(f"rate {rate}: rmsnorm - layernorm = {pair[1].mean() - pair[0].mean():+.3f};  "
          f"from seed to seed, layernorm varies by {np.ptp(pair[0]):.3f} and rmsnorm by {np.ptp(pair[1]):.3f}")

# %% slug="experiment-figure"
figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
styles = {"none": (GREY, ":", "s"), "layernorm": (ORANGE, "--", "^"), "rmsnorm": (BLUE, "-", "o")}
TOP = 3.7
for offset, norm in zip((0.94, 1.0, 1.06), NORMS, strict=True):
    colour, line, marker = styles[norm]
    means = [losses[norm, rate].mean() if np.isfinite(losses[norm, rate]).all() else np.nan for rate in RATES]
    axis.plot(np.array(RATES) * offset, means, color=colour, linestyle=line, label=f"{norm}, mean of three seeds")
    for rate in RATES:
        ended = losses[norm, rate][losses[norm, rate] < TOP]
        axis.plot([rate * offset] * len(ended), ended, marker, color=colour, markersize=5)
        failed = len(SEEDS) - len(ended)
        if failed:
            axis.plot(rate * offset, TOP, "x", color=colour, markersize=9, markeredgewidth=2)
            axis.annotate(f"{failed} of {len(SEEDS)} lost", (rate * offset, TOP), textcoords="offset points",
                          xytext=(0, 9), ha="center", color=colour)
axis.axhline(BY_FREQUENCY, color="black", linewidth=0.8, linestyle="-.")
axis.text(0.0011, BY_FREQUENCY + 0.02, "guessing by frequency", fontsize=8)
axis.set(xscale="log", xlim=(0.0008, 0.14), ylim=(2.3, 3.9), title="What a norm buys: learning rates that work",
         xlabel="learning rate (logarithmic)", ylabel="validation loss (nats per character)")
axis.set_xticks(RATES, [str(rate) for rate in RATES])
axis.legend(loc="lower left", fontsize=8)
plt.show()

# %% [markdown] slug="experiment-caption"
# *Figure 7.4. The validation losses of all runs over the learning rate, one mark a seed (square: none, triangle:
# layernorm, dot: rmsnorm), lines through the means where no run was lost; a cross at the top counts the runs that
# were lost or ended above it. At 0.001 the squares lie far above the other marks, next to the line of guessing by
# frequency. At 0.01 they are among the others, at 0.03 here even below them. At 0.1 there is only a cross for none,
# while both norms still learn. The lines of layernorm and rmsnorm lie on one another at the two lower rates, and part
# at the higher ones, where the marks of each spread widely.*

# %% [markdown] slug="experiment-rounding"
# One more measurement before you trust a difference in the second digit. The next cell trains LayerNorm again, with the
# same seeds and the same text. Only its backward pass computes in float64 and rounds once at the end, instead of after
# each operation: a change in the seventh digit of a gradient. **Predict** how far the losses move, at the lowest rate
# and at the highest.

# %% slug="experiment-rounding-run"
def rounds_once(dy, cache, needs=None):
    """LayerNorm's backward pass in float64, its results in float32 again."""
    gradients = ops.layernorm_backward(dy.astype(np.float64), cache, needs)
    return tuple(gradient.astype(np.float32) for gradient in gradients)


BACKENDS["layernorm, library"] = NUMPY
BACKENDS["layernorm, rounds once"] = NUMPY.with_ops(layernorm_backward=rounds_once)
moved = {}
for rate in (0.001, 0.1):
    library, once = (np.array([train(norm, rate, seed) for seed in SEEDS])               # (3,)
                     for norm in ("layernorm, library", "layernorm, rounds once"))
    moved[rate] = np.abs(once - library).max()
    print(f"rate {rate:<6} library {library.round(3)}   rounds once {once.round(3)}   moved by up to {moved[rate]:.4f}")
assert moved[0.001] < 0.01 < moved[0.1]

# %% [markdown] slug="experiment-rounding-what-to-see"
# At the lowest rate nothing moves that you would print. At the highest, each step is so large that it magnifies the
# last digit of the step before, and after 80 of them the run has gone elsewhere. The seed is not the only thing that
# varies: a difference between two norms has to be larger than this, too.

# %% [markdown] slug="experiment-conclusions"
# **What holds.** At the lowest rate every run with a norm is ahead of every run without. At the highest, no run without
# a norm survives and all with one do. In this experiment a norm buys a *range* of learning rates that work.
#
# **What does not.** "Without a norm it cannot be trained": at the two rates between, this small model does without one,
# keeps up with the others, and may even be ahead. You would have to find such a rate, and Figure 7.2 lets you guess
# that it gets harder with depth. Nor is it a smooth ride: exercise 7.5 looks at the first steps.
#
# "RMSNorm learns better than LayerNorm", or the other way round: compare each difference of the means in the last lines
# before the figure with how much the seeds differ among themselves, and with what rounding alone can do. Where the
# difference is the smaller, three seeds have nothing to say. The case for RMSNorm is another one: for each row one mean
# and one subtraction less, and no bias.

# %% [markdown] slug="more"
# ## 7.10 More
#
# ### Exercise 7.5 · The first steps, and a warm-up
#
# *Easy, 15 minutes, no check.* Many training runs begin with a *warm-up*: they raise the rate from near zero over the
# first steps. (a) With `history = []`, run `train("none", 0.03, seed, history=history)` for each seed, and print the
# first ten losses. What would Figure 7.4 have said if we had stopped a run whose loss went above 1000? (b) Then try
# `train("none", 0.1, seed, warm_up=10)`. What changed, and what does it tell you about *when* runs are lost?
#
# <details><summary>Hint 1</summary>A new list for each run. Look at the fourth step.</details>

# %% slug="warm-up-run" tags=["solution"]
for seed in SEEDS:
    history = []
    ended = train("none", 0.03, seed, history=history)
    print(f"rate 0.03, seed {seed}: {' '.join(f'{loss:.4g}' for loss in history[:10])} ... and ended at {ended:.2f}")
warmed_up = [train("none", 0.1, seed, warm_up=10) for seed in SEEDS]
print("rate 0.1, with a warm-up of 10 steps:", [round(loss, 2) for loss in warmed_up])

# %% [markdown] slug="warm-up-explained" tags=["solution"]
# (a) With two of the three seeds the loss leaps above 10,000 at the fourth step, and is back near guessing two steps
# later. Stopped at 1000, both would count as failures, although they end as well as the others: when a run counts as
# lost is part of the experiment.
#
# (b) The runs that were lost at 0.1 now end, if not always well. The danger is in the first steps, when AdamW divides
# by an average of squared gradients that it has only begun to collect, so that every weight moves by about the whole
# rate at once. Xiong et al. (2020) show for transformers how the place of the norm decides whether a warm-up is needed.

# %% [markdown] slug="more-initial-scale"
# ### Exercise 7.6 · The size of the first weights
#
# *Medium, 15 minutes, no check.* `train` takes `initializer_range`, the standard deviation of the first weights. Try
# 0.02, 0.1 and 0.3 at a rate of 0.01, and look at the first loss as well as the last. Which of the three models would
# not notice according to 7.7, and which part of 7.7 does not apply to the whole model?
#
# <details><summary>Hint 1</summary>Look for the matrices that have no norm behind them.</details>
# <details><summary>Hint 2</summary>history[0] is the loss before the first step.</details>

# %% slug="initial-scale-run" tags=["solution"]
for scale in (0.02, 0.3):
    for norm in NORMS:
        history = [[] for _ in SEEDS]
        ended = [train(norm, 0.01, seed, initializer_range=scale, history=history[seed]) for seed in SEEDS]
        print(f"{scale:<5} {norm:<10} first loss {[round(run[0], 1) for run in history]}   "
              f"ended at {np.round(ended, 2)}")

# %% [markdown] slug="initial-scale-explained" tags=["solution"]
# By 7.7 the two models with a norm should not notice. They do, for three reasons. The last matrix, which makes the
# scores, has no norm behind it: larger weights there mean bolder first guesses, and a higher first loss. A common
# factor on the embedding alone would cancel in the first norm, but it changes what the layers add in comparison to it.
# And even where the output does not notice, a step of a given length turns a small matrix further than a large one. Yet
# at 0.3 their first loss is near 6, and that of `none` 25 or more. Eighty steps later even that has been made good.

# %% [markdown] slug="more-keep-y"
# ### Exercise 7.7 · Keep y instead of x
#
# *Hard, 15 minutes, on paper.* The cache keeps `x`, and the next layer keeps `y`, of the same size. Could RMSNorm's
# backward pass do with `y`, `weight` and `rstd`, so that only one of the two arrays is kept? Write the formulas, and
# find the weight that breaks them.
#
# <details><summary>Hint 1</summary>What do you need x for, besides making n?</details>

# %% [markdown] slug="keep-y-explained" tags=["solution"]
# `x` is only needed for $n$, and $n = y / \text{weight}$; the rest of the formulas stays. A weight of 0 breaks it: that
# feature of `y` is 0 whatever `x` was, and $n$ cannot be recovered, though `dweight` and `dx` need it. A weight near 0
# breaks it more quietly, since it magnifies the rounding of `y`.

# %% [markdown] slug="end"
# ## 7.11 What was left out, and where to read more
#
# - **Where the norm stands.** In our model each norm stands *before* attention and MLP, and the sum around them is
#   never normalised (pre-norm, as in GPT-2 and LLaMA). The first transformer normalised *after* the sum. Xiong et al.
#   2020, *On Layer Normalization in the Transformer Architecture*, compare the two; section 3 has the gradients.
# - **One norm for all tokens.** Batch normalisation takes its mean over the batch instead of over the features. Then a
#   token's output depends on its neighbours in the batch, and training differs from use. Ba, Kiros & Hinton 2016,
#   *Layer Normalization*, sections 2 and 3, is where LayerNorm comes from; section 5 has the invariances of our 7.7.
# - **RMSNorm** is from Zhang & Sennrich 2019, *Root Mean Square Layer Normalization*: section 4 defines it, with its
#   invariances and gradients, and section 6 has comparisons far larger than ours.
# - **What we simplified.** Four layers, 80 steps, one text, three seeds. In 7.2 there was neither a residual sum nor a
#   nonlinearity between the matrices. And `eps` inside the root is a choice: some older code adds it outside.
#
# The solutions of all exercises: [solutions/07.md](solutions/07.md).
