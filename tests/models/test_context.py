"""Which frames a layer looks at and how it knows their order."""

import pytest
import torch

from steps.models.attention import SelfAttention
from steps.models.build import build_model, new_spec
from steps.models.context import Context
from steps.models.subsampling import Conv2dSubsampling, SpliceSubsampling

DIM, FRAMES, WIDTH = 20, 15, 16
CONFORMER = {"d_model": WIDTH, "head_dim": 8, "kernel_size": 5, "subsampling_channels": [4, 4], "num_blocks": 1}
CONFORMER["block"] = {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}


def make(kind, sizes):
    torch.manual_seed(1)
    return build_model(new_spec(kind, sizes, DIM, 7, "test")).eval()


def no_padding(x):
    """What a block is told besides x: that all frames are real."""
    return Context.of(torch.full((len(x),), x.shape[1]), x.shape[1])


@torch.no_grad()
def run(block, x):
    """Output of a block for frames (N, T, C) that are all real."""
    return block(x, no_padding(x))


@torch.no_grad()
def seen_by(function, x, place):
    """Input frames that output frame `place` depends on. Args: x (1, T, C).  Returns: list of frames."""
    before = function(x)[0, place]
    changed = []
    for frame in range(x.shape[1]):
        other = x.clone()
        other[0, frame] += torch.linspace(1.0, 3.0, x.shape[2])
        if not torch.allclose(function(other)[0, place], before, atol=1e-6):
            changed.append(frame)
    return changed


@torch.no_grad()
def textbook_attention(attention, x):
    """Each head's queries and keys as complex numbers, turned by their frame's angle (Su et al. 2021, equation 13)."""
    heads, size, frames = attention.heads, attention.head_dim, x.shape[1]
    out = []
    for row in x:
        parts = attention.qkv(row).view(frames, 3, heads, 2, size // 2)
        turn = torch.polar(
            torch.ones(()), torch.arange(frames)[:, None] * 10000.0 ** (-2 * torch.arange(size // 2) / size)
        )
        mixed = []
        for head in range(heads):
            query, key = (torch.complex(*parts[:, which, head].unbind(1)) * turn for which in (0, 1))
            scores = (query @ key.conj().T).real / size**0.5
            mixed.append(scores.softmax(-1) @ parts[:, 2, head].flatten(1))
        out.append(attention.out(torch.cat(mixed, -1)))
    return torch.stack(out)


def test_attention_is_the_textbooks():
    torch.manual_seed(0)
    attention, x = SelfAttention(WIDTH, heads=2, head_dim=8).eval(), torch.randn(2, FRAMES, WIDTH)
    with torch.no_grad():
        attention.qkv.weight.mul_(3.0)  # scores that matter
        found = attention(x, no_padding(x))
    torch.testing.assert_close(found, textbook_attention(attention, x), rtol=1e-4, atol=1e-5)


def test_a_conformer_knows_the_order_of_frames_by_its_attention():
    """With a convolution of one frame only attention can: frames in another order must not merely be answers in that order."""
    model = make("conformer", CONFORMER | {"kernel_size": 1})
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight.mul_(3.0)
    x, order = torch.randn(1, FRAMES, WIDTH, generator=torch.Generator().manual_seed(0)), torch.randperm(FRAMES)
    moved = (run(model.blocks[0], x[:, order]) - run(model.blocks[0], x)[:, order]).abs().max()
    assert moved > 1e-2


LAST = {"ff1": "down", "attention": "out", "convolution": "pointwise2", "ff2": "down"}  # layer that ends each module


@pytest.mark.parametrize(("alive", "share"), [("ff1", 0.5), ("attention", 1.0), ("convolution", 1.0), ("ff2", 0.5)])
def test_a_conformer_block_adds_half_of_each_feed_forward_and_all_of_the_others(alive, share):
    block, x = make("conformer", CONFORMER).blocks[0], torch.randn(1, FRAMES, WIDTH)
    added = {}

    def keep(_, __, output):
        added[alive] = output

    block.get_submodule(alive).register_forward_hook(keep)
    with torch.no_grad():
        for name, layer in LAST.items():
            if name != alive:
                for parameter in block.get_submodule(f"{name}.{layer}").parameters():
                    parameter.zero_()
        found = run(block, x)
        torch.testing.assert_close(found, block.norm(x + share * added[alive]))


@pytest.mark.parametrize("place", [0, 3, 7])
def test_both_front_ends_look_at_the_same_middle(place):
    """The seven frames from the fourth on that two convolutions see; splicing three neighbours each side sees these, too."""
    x = torch.randn(1, 4 * 8 + 3, DIM, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    convolutions, splice = Conv2dSubsampling(DIM, [4, 4], 8), SpliceSubsampling(DIM, 3, 8)
    expected = list(range(4 * place, 4 * place + 7))
    assert seen_by(convolutions, x, place) == seen_by(splice, x, place) == expected
    assert seen_by(SpliceSubsampling(DIM, 1, 8), x, place) == expected[2:5]


def test_a_wide_splice_reads_nothing_behind_an_utterance():
    """Nine frames each side reach beyond the end, where they must meet zeros whatever the batch holds there."""
    model = make("dnn", {"d_model": WIDTH, "context": 9, "num_blocks": 1, "block": {"units": 40}})
    feats, lengths = torch.randn(2, 60, DIM, generator=torch.Generator().manual_seed(0)), torch.tensor([60, 31])
    with torch.no_grad():
        batched, frames = model(feats, lengths)
        single, _ = model(feats[1:, :31], lengths[1:])
    torch.testing.assert_close(batched[1, : frames[1]], single[0])


@pytest.mark.parametrize("splice", [0, 1, 3])
def test_a_dnn_block_joins_the_frames_that_far_away(splice):
    sizes = {"d_model": WIDTH, "num_blocks": 1, "block": {"units": 40, "splice": splice}}
    block, x = make("dnn", sizes).blocks[0], torch.randn(1, FRAMES, WIDTH)
    assert seen_by(lambda x: run(block, x), x, 7) == sorted({7 - splice, 7, 7 + splice})
    with torch.no_grad():  # in the order of time
        before, own, after = block.up.weight.chunk(3, dim=1) if splice else (None, block.up.weight, None)
        if splice:
            before.zero_()
            own.zero_()
    assert seen_by(lambda x: run(block, x), x, 7) == sorted({7, 7 + splice})


def test_the_convolution_is_centred():
    convolution, x = make("conformer", CONFORMER).blocks[0].convolution, torch.randn(1, FRAMES, WIDTH)
    assert seen_by(lambda x: convolution(x, no_padding(x)), x, 7) == [5, 6, 7, 8, 9]


RNN = {"d_model": WIDTH, "subsampling_channels": [4, 4], "num_blocks": 1}


def test_one_direction_looks_back_and_the_other_ahead():
    block, x = (
        make("rnn", RNN | {"block": {"cells_forward": 8, "cells_backward": 8}}).blocks[0],
        torch.randn(1, 9, WIDTH),
    )
    for silenced, seen in ((None, range(9)), ("backwards", range(4)), ("forwards", range(3, 9))):
        if silenced:
            state = {name: tensor.clone() for name, tensor in block.state_dict().items()}
            with torch.no_grad():
                block.get_submodule(silenced).proj.weight.zero_()
        assert seen_by(lambda x: run(block, x), x, 3) == list(seen), silenced
        if silenced:
            block.load_state_dict(state)
    one_way = make("rnn", RNN | {"block": {"cells_forward": 8, "cells_backward": 0}}).blocks[0]
    assert seen_by(lambda x: run(one_way, x), x, 3) == list(range(4))
