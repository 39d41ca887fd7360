import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn

from moesaic.combiners import Average, Posterior, Routed, Tempered, Weighted
from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import EstimatorMember, EstimatorModule, ModuleMember
from moesaic.module_mixture import ModuleMixture


class Constant(nn.Module):
    """Says the same of every input."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.Parameter(torch.tensor(outputs))

    def forward(self, inputs):
        return self.outputs.expand(len(inputs), -1)


TWO_INPUTS = torch.zeros(2, 1)


def test_the_average_of_two_classifiers_is_that_of_their_probabilities():
    # probabilities (0.8, 0.2) and (0.4, 0.6): their mean is (0.6, 0.4)
    members = [
        ModuleMember(name, Constant(*torch.tensor(row).log().tolist()))
        for name, row in {"a": [0.8, 0.2], "b": [0.4, 0.6]}.items()
    ]
    output = ModuleMixture(members, Average())(TWO_INPUTS)
    torch.testing.assert_close(output.logits.exp(), torch.tensor([[0.6, 0.4], [0.6, 0.4]]))
    torch.testing.assert_close(output.routing.weights, torch.full((2, 2), 0.5))
    assert output.member_logits.shape == (2, 2, 2)


def test_regressors_are_averaged_as_numbers():
    # 0.25 · 4 + 0.75 · 8 = 7
    members = [ModuleMember("four", Constant(4.0)), ModuleMember("eight", Constant(8.0))]
    mixture = ModuleMixture(members, Weighted([0.25, 0.75], space="logit"), regression=True)
    torch.testing.assert_close(mixture(TWO_INPUTS).logits, torch.tensor([[7.0], [7.0]]))


def test_a_mixture_is_itself_a_member():
    members = [ModuleMember("four", Constant(4.0)), ModuleMember("eight", Constant(8.0))]
    inner = ModuleMixture(members, Average("logit"), regression=True, name="inner")
    # ((4 + 8) / 2 + 2) / 2 = 4
    outer = ModuleMixture([inner, ModuleMember("two", Constant(2.0))], Average("logit"), regression=True)
    assert outer(TWO_INPUTS).logits.tolist() == [[4.0], [4.0]]
    assert repr(outer) == "ModuleMixture([inner, two], Average(space='logit'))"


def test_members_may_return_an_object_with_logits():
    class LikeTransformers(nn.Module):
        def forward(self, inputs):
            return type("Output", (), {"logits": torch.ones(len(inputs), 2)})()

    mixture = ModuleMixture([ModuleMember("only", LikeTransformers())], Average("logit"))
    assert mixture(TWO_INPUTS).logits.tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("combiner", [Posterior(), Routed(), Tempered(Posterior())])
def test_a_combiner_that_reads_the_text_is_refused(combiner):
    sentence = (
        f"{type(combiner).__name__} reads the text that came before, and classifiers and regressors have none. Use a "
        "combiner that looks at the members' scores alone, such as Average, Weighted or Stacked."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture([ModuleMember("only", Constant(1.0))], combiner)


def test_regressors_are_not_combined_as_probabilities():
    sentence = (
        "Average combines in probability space, which takes the outputs for class scores; those of a regression are "
        "numbers. Use space='logit'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture([ModuleMember("only", Constant(1.0))], Average(), regression=True)


def test_regressors_have_no_temperature():
    sentence = (
        "Tempered divides by temperatures, which takes the outputs for class scores; those of a regression are "
        "numbers. Use its combiner alone, with space='logit'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture([ModuleMember("only", Constant(1.0))], Tempered(Average("logit")), regression=True)


def test_members_with_different_outputs_are_named():
    members = [ModuleMember("small", Constant(1.0, 2.0)), ModuleMember("large", Constant(1.0, 2.0, 3.0))]
    sentence = (
        "Members that meet at logits need the same outputs: small has 2, large has 3. Train them on the same classes."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture(members, Average())(TWO_INPUTS)


def test_a_member_that_gives_no_number_is_named():
    members = [ModuleMember("sound", Constant(1.0, 2.0)), ModuleMember("broken", Constant(float("nan"), 0.0))]
    sentence = (
        "broken gives what is no number for 2 of 2 inputs, the first being number 0. Train it again with a lower "
        "learning rate, or leave it out."
    )
    with pytest.raises(MemberError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture(members, Average())(TWO_INPUTS)


def test_a_regressor_that_gives_minus_infinity_is_named():
    members = [ModuleMember("sound", Constant(1.0)), ModuleMember("broken", Constant(float("-inf")))]
    sentence = (
        "broken gives what is no number for 2 of 2 inputs, the first being number 0. Train it again with a lower "
        "learning rate, or leave it out."
    )
    with pytest.raises(MemberError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture(members, Average("logit"), regression=True)(TWO_INPUTS)


def test_a_class_that_a_member_rules_out_is_no_error():
    members = [ModuleMember("sure", Constant(0.0, float("-inf"))), ModuleMember("unsure", Constant(0.0, 0.0))]
    # (1, 0) and (0.5, 0.5): their mean is (0.75, 0.25)
    logits = ModuleMixture(members, Average())(TWO_INPUTS).logits
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.75, 0.25], [0.75, 0.25]]))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "A mixture needs at least one member, got none."),
        (["a", "a"], "Two members are called 'a'; give each its own name."),
    ],
)
def test_every_member_has_a_name_of_its_own(names, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture([ModuleMember(name, Constant(1.0)) for name in names], Average())


def test_a_combiner_is_not_loaded_for_other_members(tmp_path):
    members = [ModuleMember("a", Constant(1.0, 2.0)), ModuleMember("b", Constant(1.0, 2.0))]
    ModuleMixture(members, Average()).save_combiner(tmp_path)
    sentence = (
        f"{tmp_path}: the combiner was saved for the members a, b, and was given b, a. Give the same members in the "
        "same order."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(sentence)}$"):
        ModuleMixture.load(tmp_path, members[::-1], num_outputs=2)


ROWS, LABELS = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])


def test_an_estimator_gives_the_logarithm_of_its_probabilities():
    estimator = LogisticRegression().fit(ROWS, LABELS)
    expected = estimator.predict_proba(ROWS)
    output = EstimatorMember("logistic", estimator).network(torch.from_numpy(ROWS))
    np.testing.assert_allclose(output.exp().numpy(), expected, rtol=1e-5)


def test_an_estimator_without_probabilities_gives_its_margins():
    estimator = LinearSVC().fit(ROWS, LABELS)
    output = EstimatorMember("svm", estimator).network(ROWS)
    np.testing.assert_allclose((output[:, 1] - output[:, 0]).numpy(), estimator.decision_function(ROWS), rtol=1e-5)


def test_an_estimators_impossible_class_is_only_nearly_impossible():
    class Sure:
        def predict_proba(self, rows):
            return np.array([[1.0, 0.0]])

    torch.testing.assert_close(EstimatorModule(Sure(), smallest=1e-4)(ROWS[:1]).exp(), torch.tensor([[1.0, 1e-4]]))


def test_estimators_and_modules_meet():
    line = EstimatorMember("line", LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]))
    mixture = ModuleMixture([line, ModuleMember("four", Constant(4.0))], Average("logit"), regression=True)
    # the line is 1 + 2x: (5 + 4) / 2 = 4.5 at x = 2
    assert mixture(torch.tensor([[2.0]])).logits.tolist() == [[4.5]]


def test_what_can_neither_predict_nor_score_is_refused():
    sentence = (
        "list has none of predict_proba, decision_function and predict, so there is nothing to combine. Give a fitted "
        "classifier, regressor, or a pipeline that ends in one."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        EstimatorModule([])


def constants(**outputs):
    return [ModuleMember(name, Constant(output)) for name, output in outputs.items()]


def test_members_of_a_module_mixture_come_and_go():
    mixture = ModuleMixture(constants(four=4.0, eight=8.0), Weighted([0.25, 0.75], space="logit"), regression=True)
    assert mixture(TWO_INPUTS).logits[0].item() == pytest.approx(7)
    larger = mixture.add_member(constants(one=1.0)[0])
    # The newcomer has the mean weight, 1/3 of all: 2/3 * 7 + 1/3 * 1 = 5
    assert larger(TWO_INPUTS).logits[0].item() == pytest.approx(5)
    better = larger.replace_member("one", constants(ten=10.0)[0])
    assert better.member_names == ["four", "eight", "ten"]
    assert better(TWO_INPUTS).logits[0].item() == pytest.approx(8)
    # (1/6 * 4 + 1/3 * 10) / (1/2) = 8
    assert better.remove_member("eight")(TWO_INPUTS).logits[0].item() == pytest.approx(8)
    assert mixture(TWO_INPUTS).logits[0].item() == pytest.approx(7)


def test_a_combiner_that_has_combined_nothing_yet_is_made_for_the_members_that_there_are():
    mixture = ModuleMixture(constants(four=4.0), Average("logit"), regression=True).add_member(constants(two=2.0)[0])
    assert mixture(TWO_INPUTS).logits[0].item() == pytest.approx(3)
    alone = ModuleMixture(constants(four=4.0, two=2.0), Average("logit"), regression=True).remove_member("two")
    assert alone(TWO_INPUTS).logits[0].item() == pytest.approx(4)


def test_changes_of_a_module_mixture_that_cannot_be_made_are_refused():
    mixture = ModuleMixture(constants(four=4.0), Average("logit"), regression=True)
    with pytest.raises(ValueError, match=r"^Two members are called 'four'; give each its own name\.$"):
        mixture.add_member(constants(four=4.0)[0])
    with pytest.raises(ValueError, match=r"^No member is called 'five'; there are four\.$"):
        mixture.replace_member("five", constants(five=5.0)[0])
    sentence = r"^'four' is the only member, and a mixture needs one\. Add another first, or replace it\.$"
    with pytest.raises(ValueError, match=sentence):
        mixture.remove_member("four")
