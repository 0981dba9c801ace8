import matplotlib.image
import pytest

from tinyllama.training.plots import DARK, LIGHT, save_loss_plot


def drawn(path, losses, validation, **settings):
    save_loss_plot(path, losses, validation, title="a run", **settings)
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


def test_the_plot_for_a_dark_page_is_dark_and_opaque(tmp_path):
    pixels = drawn(tmp_path / "loss.png", [4.0, 3.0, 2.5, 2.2], [(2, 3.1), (4, 2.4)], colors=DARK)
    corner = pixels[0, 0].tolist()
    assert corner[:3] == pytest.approx([0x11 / 255] * 3, abs=0.01)
    assert corner[3:] in ([], [1.0])
    assert has_colour(pixels, 0x56, 0xB4, 0xE9)
    assert has_colour(pixels, 0xE6, 0x9F, 0x00)
    assert not has_colour(pixels, 0xFF, 0xFF, 0xFF)


def luminance(colour):
    """Relative luminance by WCAG 2.1."""
    channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_every_line_stands_out_from_the_background(colors):
    background = luminance("#FFFFFF" if colors["background"] == "white" else colors["background"])
    for name in ("training", "validation", "floor"):
        darker, lighter = sorted((luminance(colors[name]), background))
        assert (lighter + 0.05) / (darker + 0.05) > 3, name        # what WCAG asks of graphics


def test_the_floor_is_drawn_where_it_is_known(tmp_path, monkeypatch):
    heights = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda self, y, **style: heights.append((y, style["label"])))
    drawn(tmp_path / "loss.png", [4.0, 3.0], [(2, 2.4)])
    assert heights == []
    drawn(tmp_path / "loss.png", [4.0, 3.0], [(2, 2.4)], floor=0.6543)
    assert heights == [(0.6543, "entropy of the data, 0.654")]


def test_a_second_panel_shows_how_far_above_the_floor_the_validation_is(tmp_path, monkeypatch):
    panels = []
    monkeypatch.setattr("matplotlib.axes.Axes.semilogy", lambda self, x, y, **style: panels.append((x, y)))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda self, **style: None)
    drawn(tmp_path / "loss.png", [4.0, 3.0, 2.0], [(1, 3.5), (2, 2.25), (3, 1.9)], floor=2.0)
    assert panels == [((1, 2), (1.5, 0.25))]            # a loss below the entropy, by chance, has no logarithm
    drawn(tmp_path / "loss.png", [4.0], [(1, 1.9)], floor=2.0)
    drawn(tmp_path / "loss.png", [4.0], [(1, 1.9)])
    assert len(panels) == 1


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
