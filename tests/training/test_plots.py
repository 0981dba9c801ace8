import matplotlib.image
import pytest

from tinyllama.training.plots import save_loss_plot


def drawn(path, losses, validation):
    save_loss_plot(path, losses, validation, title="a run")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(path)                    # (height, width, 3 or 4), 0 .. 1


def has_colour(pixels, red, green, blue):
    wanted = [red / 255, green / 255, blue / 255]
    return (abs(pixels[..., :3] - wanted) < 0.01).all(axis=-1).any()


def test_the_plot_shows_both_losses_on_white(tmp_path):
    pixels = drawn(tmp_path / "loss.png", [4.0, 3.0, 2.5, 2.2], [(2, 3.1), (4, 2.4)])
    assert pixels.shape[:2] == (540, 960)
    for corner in (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]):
        assert corner.tolist() == [1.0] * len(corner)       # white, and opaque
    assert has_colour(pixels, 0x00, 0x72, 0xB2)             # training
    assert has_colour(pixels, 0xD5, 0x5E, 0x00)             # validation


@pytest.mark.parametrize("losses", [[], [4.0]])
def test_a_run_that_was_interrupted_early_has_a_plot_too(losses, tmp_path):
    pixels = drawn(tmp_path / "loss.png", losses, [])
    assert not has_colour(pixels, 0xD5, 0x5E, 0x00)


def test_the_curve_is_the_mean_of_recent_losses(tmp_path, monkeypatch):
    curves = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, x, y, **style: curves.append((list(x), list(y))))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda self, **style: None)
    save_loss_plot(tmp_path / "loss.png", [4.0, 2.0, 2.0], [], title="a run")
    steps, every_loss = curves[0]
    assert (steps, every_loss) == ([1, 2, 3], [4.0, 2.0, 2.0])
    steps, mean = curves[1]
    weights = [0.9**2, 0.9, 1.0]
    assert steps == [1, 2, 3]
    assert mean[0] == 4.0
    assert mean[2] == pytest.approx((4 * weights[0] + 2 * weights[1] + 2 * weights[2]) / sum(weights))
