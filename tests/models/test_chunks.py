"""Models in chunks: what a chunk sees, caches that give what the masked forward pass gives, and what is refused."""

import collections
from types import SimpleNamespace

import pytest
import torch

from steps.core.cli import UserError
from steps.models.build import build_model, load_model, new_spec
from steps.models.context import Context
from tests.deploy.conftest import SIZES, make_model, save_folder

BLOCKS = [
    {"heads": 3, "ff1": 16, "ff2": 24, "conv_channels": 8},
    {"heads": 1, "ff1": 16, "ff2": 24, "conv_channels": 16},
]
ONE_WAY = {"blocks": [{"cells_forward": 24, "cells_backward": 0}, {"cells_forward": 16, "cells_backward": 0}]}
VARIANTS = {
    "conformer": ("conformer", {}),
    "conformer-batch-norm": ("conformer", {"conv_norm": "batch", "kernel_size": 3}),
    "conformer-pruned": ("conformer", {"blocks": BLOCKS, "block": None}),
    "conformer-ahead": ("conformer", {"ahead": 3}),
    "rnn": ("rnn", ONE_WAY | {"block": None}),
    "conformer-sliding": ("conformer", {"normalisation": "sliding", "ahead": 2}),
    "rnn-sliding": ("rnn", ONE_WAY | {"block": None, "normalisation": "sliding"}),
    "dnn": ("dnn", {"blocks": [{"units": 40, "splice": 2}, {"units": 24, "splice": 1}], "block": None}),
}
DIM = 20


def streaming(kind, chunk=2, left_chunks=2, head="ctc", ahead=0, normalisation="global", **changes):
    """A tiny model in eval mode that streams. Args: chunk, ahead: encoder frames."""
    settings = {"chunk_ms": 40 * chunk} | ({} if kind != "conformer" else {"left_chunks": left_chunks})
    settings |= {"ahead_ms": 40 * ahead} if ahead else {}
    changes = {key: value for key, value in changes.items() if value is not None}
    sizes = {key: value for key, value in SIZES[kind].items() if key != "block" or "blocks" not in changes}
    if "blocks" in changes:
        sizes.pop("num_blocks")
        changes["num_blocks"] = 1
    torch.manual_seed(1)
    sizes |= changes | {"streaming": settings}
    model = build_model(new_spec(kind, sizes, DIM, 11, "test", head=head, normalisation=normalisation))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
            if "qkv" in name:
                # scores that matter
                tensor.mul_(4.0)
    model.set_cmvn_(torch.randn(DIM), torch.rand(DIM) + 0.5)
    return model.eval()


def ragged():
    """Utterances that end in different chunks, and one too short for a frame. Returns: features, lengths."""
    return torch.randn(5, 203, DIM, generator=torch.Generator().manual_seed(0)), torch.tensor([203, 111, 64, 8, 3])


def chunk_by_chunk(model, feats, lengths):
    """What a loop over chunks gives, the utterances of the batch ending in different ones. Returns: (N, T', d_model)."""
    states, seen, parts = model.first_states(len(feats)), torch.zeros(len(feats), dtype=torch.int64), []
    width, shift = model.chunk_frames(), model.frontend.stride * model.chunk
    frames = int(model.output_lengths(lengths).max())
    for start in range(0, shift * -(-frames // model.chunk), shift):
        part = feats[:, start : start + width]
        part = torch.nn.functional.pad(part, (0, 0, 0, width - part.shape[1]), value=7.0)
        out, states = model.encode_chunk(part, states, seen, (lengths - start).clamp(0, width))
        seen = seen + model.chunk
        parts.append(out)
    return torch.cat(parts, dim=1)[:, :frames]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_caches_give_what_the_masked_forward_pass_gives(variant, dtype, tolerance):
    kind, changes = VARIANTS[variant]
    model = streaming(kind, left_chunks=2, **changes).to(dtype)
    feats, lengths = ragged()
    feats = feats.to(dtype)
    for chunk in (1, 2, 3, 8, 16, 60) if dtype == torch.float64 else (1, 8):
        model.use_chunk(40 * chunk)
        with torch.no_grad():
            hidden, frames = model.encode(feats, lengths)
            found = chunk_by_chunk(model, feats, lengths)
        for row, expected, count in zip(found, hidden[-1], frames.tolist(), strict=True):
            torch.testing.assert_close(row[:count], expected[:count], rtol=0, atol=tolerance)


@torch.no_grad()
def test_a_chunk_that_hears_ahead_gives_what_it_gives_of_a_longer_one():
    """The first chunk hears five frames and gives two; the second one's first frame has the first two behind it, as the first
    chunk gave them, and not the rest."""
    model, feats = streaming("conformer", left_chunks=1, ahead=3), torch.randn(1, 43, DIM)
    found = model.encode(feats, torch.tensor([43]))[0]
    longer = streaming("conformer", chunk=5, left_chunks=1)
    expected = longer.encode(feats, torch.tensor([43]))[0]
    for own, other in zip(found, expected, strict=True):
        assert own.shape == other.shape == (1, 10, 32)
        torch.testing.assert_close(own[:, :2], other[:, :2])
    assert (found[-1][:, 2:5] - expected[-1][:, 2:5]).abs().amax(dim=2).min() > 1e-3
    # feature frames: four each of five frames, and three of the front end
    assert model.chunk_frames() == 23 and model.look_ahead() == 19 and longer.look_ahead() == 19
    assert model.describe_chunk() == "chunks of 80 ms, 120 ms ahead"
    model.use_chunk(0)
    whole = model.encode(feats, torch.tensor([43]))[0][-1]
    longer.use_chunk(0)
    assert torch.equal(whole, longer.encode(feats, torch.tensor([43]))[0][-1]) and model.ahead == 0


def test_training_hears_nothing_ahead():
    feats, lengths = ragged()
    model = streaming("conformer", ahead=3, dropout=0.0).train()
    other = streaming("conformer", dropout=0.0).train()
    for seed in range(4):
        torch.manual_seed(seed)
        found = model.encode(feats[:2], lengths[:2])[0][-1]
        torch.manual_seed(seed)
        assert torch.equal(found, other.encode(feats[:2], lengths[:2])[0][-1])


@torch.no_grad()
def test_a_spliced_frame_sees_its_chunk_and_all_before():
    """Chunks of 3 frames; a splice of 2 joins frames that far away."""
    block, x = streaming("dnn", **VARIANTS["dnn"][1]).blocks[0], torch.randn(1, 16, 24)
    context = Context.of(torch.tensor([15]), 16, 3)
    for place, expected in ((0, [0, 2]), (3, [1, 3, 5]), (4, [2, 4]), (12, [10, 12, 14]), (13, [11, 13])):
        before, seen = block(x, context)[0, place], []
        for frame in range(16):
            other = x.clone()
            other[0, frame] += torch.linspace(1.0, 3.0, 24)
            if not torch.allclose(block(other, context)[0, place], before, atol=1e-6):
                seen.append(frame)
        assert seen == expected


@pytest.mark.parametrize("kind", ["conformer", "rnn"])
def test_a_transducer_says_with_caches_what_it_says_masked(kind):
    model = streaming(kind, head="transducer", **(ONE_WAY | {"block": None} if kind == "rnn" else {}))
    feats, lengths = ragged()
    texts = set()
    with torch.no_grad():
        # so that it says this and that
        model.output.weight *= 20
        scores = model.head.join(model, model(feats, lengths)[0], model.head.predict(model, torch.tensor([3, 4])))
        model.output.bias -= scores.mean(dim=(0, 1))
        for chunk in (1, 3, 8, 60):
            model.use_chunk(40 * chunk)
            expected, frames = model(feats, lengths)
            found = model.classify(chunk_by_chunk(model, feats, lengths))
            for row, other, count in zip(found, expected, frames.tolist(), strict=True):
                torch.testing.assert_close(row[:count], other[:count], rtol=0, atol=1e-4)
            said = model.head.best_tokens(model, expected, frames)
            assert model.head.best_tokens(model, found, frames) == said and all(said[:3]) and not said[4]
            texts.add(str(said))
            assert len(set(said[0])) > 3
    assert len(texts) == (4 if kind == "conformer" else 1)


def test_the_loss_of_a_transducer_in_chunks_is_that_of_its_utterances_alone():
    model, (feats, lengths) = streaming("conformer", head="transducer", dropout=0.0), ragged()
    feats, lengths = feats[:3], lengths[:3]
    tokens, counts = torch.tensor([[3, 4, 4, 5], [6, 7, 0, 0], [8, 0, 0, 0]]), torch.tensor([4, 2, 1])
    losses = []
    for chunk_ms in (0, 80, 320):
        model.use_chunk(chunk_ms)
        together = model.head.loss_sum(
            model, *model(feats, lengths), SimpleNamespace(tokens=tokens, token_lengths=counts)
        )
        alone = 0.0
        for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            own = SimpleNamespace(tokens=tokens[row : row + 1, :count], token_lengths=counts[row : row + 1])
            alone += model.head.loss_sum(model, *model(feats[row : row + 1, :length], torch.tensor([length])), own)
        torch.testing.assert_close(together, alone)
        losses.append(together)
    assert len({round(loss.item(), 3) for loss in losses}) == 3
    losses[1].backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert learning == {name for name, _ in model.named_parameters() if "ctc_output" not in name}


@torch.no_grad()
def test_the_chunk_is_not_without_effect():
    """Else the test above could compare whole utterances with whole utterances."""
    model, feats, lengths = streaming("conformer"), torch.randn(1, 203, DIM), torch.tensor([203])
    results = []
    for chunk_ms in (0, 40, 80, 640):
        model.use_chunk(chunk_ms)
        results.append(model.encode(feats, lengths)[0][-1])
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(results) for b in results[:i])


def test_without_chunks_it_is_the_model_without_streaming():
    model = streaming("conformer")
    plain = build_model(new_spec("conformer", SIZES["conformer"], DIM, 11, "test")).eval()
    plain.load_state_dict(model.state_dict())
    model.use_chunk(0)
    feats, lengths = torch.randn(2, 90, DIM), torch.tensor([90, 41])
    with torch.no_grad():
        assert torch.equal(model(feats, lengths)[0], plain(feats, lengths)[0])
        model.use_chunk(8000)
        torch.testing.assert_close(
            model.encode(feats[:1, :60], lengths[1:])[0], plain.encode(feats[:1, :60], lengths[1:])[0]
        )


@torch.no_grad()
@pytest.mark.parametrize(
    ("place", "attended"), [(0, range(0, 3)), (4, range(0, 6)), (7, range(2, 9)), (14, range(8, 15))]
)
def test_a_frame_sees_its_chunk_and_the_frames_left_of_it(place, attended):
    """Chunks of 3 frames, 4 frames to the left; a kernel of 5 reaches 2 frames back, and forward to the chunk's end."""
    attention, convolution = (getattr(streaming("conformer").blocks[0], n) for n in ("attention", "convolution"))
    x, context = torch.randn(1, 16, 32), Context.of(torch.tensor([15]), 16, 3, 4)
    own = range(place // 3 * 3, place // 3 * 3 + 3)
    for layer, expected in (
        (attention, list(attended)),
        (convolution, [t for t in range(place - 2, place + 3) if 0 <= t <= own[-1]]),
    ):
        before, seen = layer(x, context)[0, place], []
        for frame in range(16):
            other = x.clone()
            other[0, frame] += torch.linspace(1.0, 3.0, 32)
            if not torch.allclose(layer(other, context)[0, place], before, atol=1e-6):
                seen.append(frame)
        assert seen == expected


def test_training_draws_chunks_by_the_seed_and_use_does_not():
    model, feats, lengths = streaming("conformer", dropout=0.0), torch.randn(2, 120, DIM), torch.tensor([120, 60])
    torch.manual_seed(0)
    assert [model.draw_chunk() for _ in range(9)] == [2] * 9
    fixed = model.encode(feats, lengths)[0][-1]
    model.train()
    drawn = []
    for seed in range(200):
        torch.manual_seed(seed)
        drawn.append(model.draw_chunk())
    counts = collections.Counter(drawn)
    assert sorted(counts) == [0, 4, 8, 16] and min(counts.values()) > 30
    # what is drawn is what is computed, and padding is hidden there, too
    for chunk in sorted(counts):
        torch.manual_seed(drawn.index(chunk))
        trained = model.encode(feats, lengths)[0][-1]
        model.eval().use_chunk(40 * chunk)
        for row, expected, count in zip(trained, model.encode(feats, lengths)[0][-1], (29, 14), strict=True):
            torch.testing.assert_close(row[:count], expected[:count])
        assert not torch.allclose(trained, fixed)
        model.train()


def test_a_folder_keeps_its_chunks_and_others_are_described_as_before(tmp_path):
    settings = {"chunk_ms": 160, "left_chunks": 3, "drawn_ms": [0, 160]}
    folder = save_folder(tmp_path / "m", make_model("conformer", streaming=settings))
    model = load_model(folder)
    assert (model.chunk, model.left, model.streaming.drawn) == (4, 12, [0, 4])
    assert model.spec["model"]["streaming"] == settings and model.describe_chunk() == "chunks of 160 ms"
    plain = make_model("conformer")
    assert "streaming" not in plain.spec["model"] and plain.describe_chunk() == ""
    with pytest.raises(ValueError, match="a conformer without `streaming` in its settings does not run in chunks"):
        plain.use_chunk(320)


REFUSED = {
    "far ahead": ("dnn", {"context": 7}, {"chunk_ms": 320}, "streaming needs context: 3"),
    "no splice": (
        "dnn",
        {"block": {"splice": 0}},
        {"chunk_ms": 320},
        "streaming needs a splice of 1 or more in every block",
    ),
    "drawn of a dnn": ("dnn", {}, {"drawn_ms": [50]}, "a chunk is a multiple of 40 ms, at most 8000, not 50"),
    "both ways": ("rnn", {}, {"chunk_ms": 320}, "streaming needs cells_backward: 0 in every block"),
    "left of an rnn": ("rnn", {}, {"left_chunks": 3}, "unknown key 'left_chunks'"),
    "no kernel": ("conformer", {"kernel_size": 1}, {"chunk_ms": 320}, "streaming needs a kernel_size of 3 or more"),
    "50 ms": ("conformer", {}, {"chunk_ms": 50}, "a chunk is a multiple of 40 ms, at most 8000, not 50"),
    "0 ms": ("conformer", {}, {"chunk_ms": 0}, "chunk_ms must be at least 40"),
    "half a frame ahead": ("conformer", {}, {"ahead_ms": 60}, "ahead_ms must be a multiple of 40, 0 to 8000"),
    "ahead of an rnn": ("rnn", {}, {"ahead_ms": 40}, "unknown key 'ahead_ms'"),
    "no left": ("conformer", {}, {"left_chunks": 0}, "left_chunks must be 1 to 100"),
    "drawn": ("conformer", {}, {"drawn_ms": [0, -40]}, "a chunk is a multiple of 40 ms, at most 8000, not -40"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_stream_is_refused_in_one_line(case):
    kind, changes, settings, message = REFUSED[case]
    with pytest.raises(UserError, match=f"^x.yaml: model: .*{message}") as error:
        new_spec(kind, SIZES[kind] | changes | {"streaming": settings}, DIM, 7, "test", "x.yaml: model")
    assert "\n" not in str(error.value)


def test_what_hears_the_whole_utterance_cannot_stream():
    with pytest.raises(UserError, match="x.yaml: model: streaming: not for type hub; conformer streams, rnn with"):
        new_spec("hub", {"streaming": {"chunk_ms": 320}}, DIM, 7, "test", "x.yaml: model")
    sizes = SIZES["conformer"] | {"streaming": {"chunk_ms": 320}}
    with pytest.raises(UserError, match="x.yaml: model: streaming: normalisation: utterance hears the whole utterance"):
        new_spec("conformer", sizes, DIM, 7, "test", "x.yaml: model", normalisation="utterance")
    spec = new_spec("conformer", sizes, DIM, 7, "test") | {"normalisation": "utterance_variance"}
    with pytest.raises(UserError, match="normalisation utterance_variance hears the whole utterance; take sliding"):
        build_model(spec)
