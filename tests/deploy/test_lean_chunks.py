"""A lean chunk computes what the blocks compute, whatever the order of what it keeps, in few operators."""

import pytest
import torch

from steps.deploy.graphs import graphs_of
from steps.deploy.lean import with_halves
from steps.deploy.lean_chunks import LeanChunk, is_lean
from steps.models.attention import STATES, SelfAttention
from tests.deploy.conftest import DIM, make_model
from tests.deploy.streams import AHEAD, CHUNKS, conformer, pruned


def turned(states, time_first):
    """Keys and values with the other axis first, if time is."""
    return [
        {name: kept.transpose(0, 1) if time_first and name in STATES else kept for name, kept in state.items()}
        for state in states
    ]


@pytest.mark.parametrize("head", ["ctc", "transducer"])
@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("halves", [False, True])
def test_a_lean_chunk_gives_what_the_blocks_give(head, time_first, halves):
    model = pruned() if head == "ctc" else make_model("conformer", head=head, normalisation="sliding", **AHEAD)
    model = model.double()
    lean = LeanChunk(with_halves(model) if halves else model, time_first)
    torch.manual_seed(0)
    seen, expected = torch.tensor([0, 0, 0]), model.first_states(3)
    found = turned(expected, time_first)
    # the third utterance begins when the others have three chunks
    for number in range(6):
        feats = torch.randn(3, model.chunk_frames(), DIM, dtype=torch.float64)
        if number == 3:
            seen[2] = 0
            for state, other in zip(expected, found, strict=True):
                for name in state:
                    state[name][2].normal_()
                    other[name] = turned([state], time_first)[0][name].clone()
        with torch.no_grad():
            hidden, expected = model.encode_chunk(feats, expected, seen)
            outputs, found = lean(feats, found, seen)
        # both have tables of positions in float32
        torch.testing.assert_close(outputs, model.classify(hidden), rtol=1e-6, atol=1e-6)
        for state, other in zip(turned(expected, time_first), found, strict=True):
            assert state.keys() == other.keys()
            for name, kept in state.items():
                torch.testing.assert_close(other[name], kept, rtol=1e-6, atol=1e-6)
        seen += model.chunk


def test_parts_that_are_not_known_keep_their_own_forward_pass():
    class Other(SelfAttention):
        """Attention of another kind."""

    model = conformer()
    assert is_lean(model)
    model.blocks[1].attention.__class__ = Other
    assert not is_lean(model)
    assert not is_lean(make_model("rnn", streaming={"chunk_ms": 160}, block={"cells_forward": 8, "cells_backward": 0}))


@pytest.mark.parametrize(("head", "file"), [("ctc", "model.onnx"), ("transducer", "encoder.onnx")])
def test_sizes_but_the_batch_are_no_nodes_of_the_graph(head, file):
    graph = graphs_of(model := make_model("conformer", head=head, **CHUNKS)).build(model)[file].graph
    kinds = [node.op_type for node in graph.node]
    assert not {"Shape", "Where", "ConstantOfShape"} & set(kinds)
    # a block has about seventy; it had a hundred and ten
    assert len(kinds) <= 25 + 75 * len(model.blocks)
