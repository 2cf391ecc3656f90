"""What the tests of scores and reports share."""

import pytest

from tests.scoring.made_up import make_model


@pytest.fixture
def exp(tmp_path):
    make_model(tmp_path, "teacher", wrong=2, size=9000, lexicon=True)
    make_model(tmp_path, "student", wrong=9, parent="teacher", lexicon=True)
    make_model(tmp_path, "student_int8", wrong=10, parent="student", size=400, quantization={"bits": 8})
    return tmp_path
