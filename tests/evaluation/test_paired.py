"""Points lost between two lists of answers, and the interval beside them."""

import numpy as np
import pytest
from weft.evaluation.paired import NORMAL_95, Paired


def test_only_questions_that_one_of_both_answers_count():
    found = Paired.of([True, True, True, False, False], [False, True, False, True, False])
    assert found == Paired(lost=2, won=1, asked=5) and found.points == 20.0
    assert str(Paired(0, 0, 96)) == "+0.0 ± 2.0"  # alike, and not certain


@pytest.mark.parametrize("lost, won", [(0.02, 0.02), (0.1, 0.03), (0.01, 0.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(lost, won):
    rng = np.random.default_rng(3)
    draws = rng.multinomial(128, [lost, won, 1 - lost - won], size=4000)
    found = [Paired(int(a), int(b), 128) for a, b, _ in draws]
    inside = [abs(each.points - 100 * (lost - won)) <= NORMAL_95 * each.error for each in found]
    assert np.mean(inside) > 0.93
    narrow = [abs(each.points - 100 * (lost - won)) <= each.error for each in found]
    assert np.mean(narrow) < 0.9
