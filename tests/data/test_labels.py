"""Laws of labels and held-out parts: stable numbers, shares of each class, no text in both."""

from collections import Counter

import pytest

from qkv.data.labels import (
    Labels,
    PairExample,
    TextExample,
    hold_out_stratified,
    label_remarks,
    read_examples,
    seconds_of,
)
from qkv.errors import ConfigError, DataError


def corpus(sizes=(("x", 41), ("y", 13), ("z", 2))):
    """Classes of different size, one after the other."""
    return [TextExample(f"{label}{i}", label) for label, size in sizes for i in range(size)]


def test_numbers_do_not_depend_on_the_order_of_the_rows():
    names = ["b", "ä", "a", "b", "B"]
    assert Labels.of(names).names == Labels.of(names[::-1]).names == ("B", "a", "b", "ä")
    assert [Labels.of(names).number(name) for name in names] == [2, 3, 1, 2, 0]


def test_whole_numbers_are_in_their_own_order():
    assert Labels.of(["10", "9", "0"]).names == ("0", "9", "10")
    assert Labels.of(["10", "9", "-1"]).names == ("-1", "10", "9")
    # Not every digit is one that `int` reads.
    assert Labels.of(["²", "10"]).names == ("10", "²")


def test_names_that_are_given_keep_their_order():
    labels = Labels(["positive", "negative"])
    assert labels.number("negative") == 1
    assert len(labels) == 2
    assert repr(labels) == "Labels(['positive', 'negative'])"


def test_an_unseen_label_is_named_with_those_known():
    labels = Labels.of(["good", "bad"])
    with pytest.raises(DataError, match=r"^dev, line 3: the label 'Good' was never seen in trai"):
        labels.number("Good", "dev, line 3")
    with pytest.raises(DataError, match=r"^the label 'Good' .*; known are 'bad', 'good' \(another"):
        labels.number("Good")
    many = Labels([str(i) for i in range(23)])
    with pytest.raises(DataError, match=r"'8', '9' and 13 more \(another spelling"):
        many.number("x")


def test_one_class_is_no_classification():
    with pytest.raises(DataError, match=r"1 classes: 'a'; expected two or more \(is this the col"):
        Labels.of(["a", "a"])
    with pytest.raises(DataError, match="0 classes"):
        Labels.of([])
    with pytest.raises(DataError, match="classes 'a', 'b', 'a'; expected each name once"):
        Labels(["a", "b", "a"])


def test_examples_come_from_the_named_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,review,stars\n1,fine,5\n2,poor,1\n")
    examples = read_examples(path, text="review", label="stars")
    assert examples == [("fine", "5"), ("poor", "1")]
    assert read_examples(path, text="review", label="stars", known=Labels(["1", "5"])) == examples


def test_pairs_have_a_second_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("q,s,label\nWho?,Ann did.,yes\nWhen?,Ann did.,no\n")
    pairs = read_examples(path, text="q", second="s", known=Labels(["no", "yes"]))
    assert pairs == [
        PairExample("Who?", "yes", second="Ann did."),
        PairExample("When?", "no", second="Ann did."),
    ]
    assert seconds_of(pairs) == ["Ann did.", "Ann did."]
    singles = read_examples(path, text="q")
    assert seconds_of(singles) is None
    with pytest.raises(DataError, match="2 of 4 examples are pairs of texts; expected all, or"):
        seconds_of([*pairs, *singles])
    with pytest.raises(DataError, match=r"a\.csv has no column 'sentence'"):
        read_examples(path, text="q", second="sentence")
    with pytest.raises(DataError, match="line 2: the label 'yes' was never seen"):
        read_examples(path, text="q", second="s", known=Labels(["no", "never"]))


def test_a_label_that_training_lacked_is_found_with_its_line(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text('text,label\n"of two\nlines",good\nfine,so-so\n')
    message = r"dev\.csv, line 4: the label 'so-so' was never seen in training; known are 'bad', 'g"
    with pytest.raises(DataError, match=message):
        read_examples(path, known=Labels.of(["good", "bad"]))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_each_class_gives_its_share_and_stays_in_both_parts(share):
    examples = corpus()
    kept, held = hold_out_stratified(examples, share, seed=3)
    assert Counter(kept) + Counter(held) == Counter(examples)
    for label, size in (("x", 41), ("y", 13), ("z", 2)):
        n_held = sum(example.label == label for example in held)
        assert n_held == min(max(1, round(share * size)), size - 1)
    # Both are in the order of the whole.
    assert kept == [example for example in examples if example in kept]
    assert held == [example for example in examples if example in held]


def test_the_seed_and_the_examples_alone_decide():
    examples = corpus()
    assert hold_out_stratified(examples, 0.3, seed=3) == hold_out_stratified(examples, 0.3, seed=3)
    assert hold_out_stratified(examples, 0.3, seed=3) != hold_out_stratified(examples, 0.3, seed=4)
    # The order of the classes is none of the choice.
    turned = sorted(examples, key=lambda example: example.label, reverse=True)
    assert set(hold_out_stratified(turned, 0.3, seed=3)[1]) == set(
        hold_out_stratified(examples, 0.3, seed=3)[1]
    )


def test_every_text_is_as_likely_to_be_held_out():
    examples = corpus((("x", 7), ("y", 5)))
    held = Counter(
        example
        for seed in range(700)
        for example in hold_out_stratified(examples, 0.3, seed=seed)[1]
    )
    assert all(
        abs(held[example] / 700 - 2 / (7 if example.label == "x" else 5)) < 0.06
        for example in examples
    )


def test_equal_texts_stay_together_whatever_their_labels():
    examples = corpus((("x", 17), ("y", 11))) * 3 + [TextExample("x0", "y"), TextExample("y0", "x")]
    for seed in range(20):
        kept, held = hold_out_stratified(examples, 0.4, seed=seed)
        assert not {example.text for example in kept} & {example.text for example in held}
        assert len(kept) + len(held) == len(examples)
        # 7 of 17 and 4 of 11 different texts, each three times, and perhaps one of the two more.
        assert 33 <= len(held) <= 35


def test_a_text_with_two_labels_counts_for_its_first():
    both = [TextExample(*row) for row in (("a", "x"), ("b", "x"), ("a", "y"), ("c", "y"))]
    with pytest.raises(DataError, match="1 of 2 classes have a single text: 'y'"):
        hold_out_stratified(both, 0.5, seed=0)


def test_a_class_with_one_text_cannot_be_split():
    examples = [*corpus(), TextExample("alone", "w"), TextExample("alone", "w")]
    with pytest.raises(DataError, match=r"1 of 4 classes have a single text: 'w'; expected two or"):
        hold_out_stratified(examples, 0.1, seed=0)
    every = [TextExample("a", str(i)) for i in range(13)]
    with pytest.raises(
        DataError, match=r"13 of 13 classes .* 3 more; .*is this the column of the l"
    ):
        hold_out_stratified(every, 0.1, seed=0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 90.0])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(
        ConfigError, match=rf"share = {share} to hold out; expected between 0 and 1"
    ):
        hold_out_stratified(corpus(), share, seed=0)


def test_nothing_cannot_be_split():
    with pytest.raises(DataError, match="no examples to hold some out from"):
        hold_out_stratified([], 0.1, seed=0)


def test_remarks_on_labels():
    labels = ["good"] * 5 + ["Good", "good ", "bad", "bad", "so so", "soso", "soso"]
    single, goods, sosos = label_remarks(labels)
    assert single.startswith("3 of 6 classes have a single example: 'Good', 'good ', 'so so' (miss")
    assert goods.startswith(
        "labels differ only in case or white space: 'good' (5), 'Good' (1), 'good ' (1); they are"
    )
    assert "'so so' (1), 'soso' (2)" in sosos
    assert label_remarks(["a", "a", "b", "b"]) == []


def test_problems_and_unknown_labels_are_reported_together(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,good\nb,Bad\n,good\nd,soso\n")
    with pytest.raises(DataError) as caught:
        read_examples(path, known=Labels(["bad", "good"]))
    assert "3 of the 4 rows" in str(caught.value)
    assert "- unknown label (2): line 3: the label 'Bad' was never seen" in str(caught.value)
    assert "  also in lines 5" in str(caught.value)
    assert "- empty text (1): line 4" in str(caught.value)
    with pytest.raises(DataError, match="unknown label"):  # these are never left out
        read_examples(path, known=Labels(["bad", "good"]), problems=[])
    problems = []
    assert [one.label for one in read_examples(path, problems=problems)] == ["good", "Bad", "soso"]
    assert len(problems) == 1
