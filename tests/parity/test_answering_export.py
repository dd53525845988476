"""A model that finds answers, as `qkv train` saves it, in transformers: the same logits."""

import torch
import transformers
from tests.helpers import assert_as_exact
from tests.parity.reference import in_float64
from tests.tasks.small import write_base

from qkv.data.windows import WindowConfig, make_windows
from qkv.tasks.answering import Answerer
from qkv.tasks.pretrained import save

CONTEXT = "the film was not dull . a clever  plot and the superb books ! the meal was lovely"
QUESTION = "was the film dull"


def test_the_folder_loads_and_says_the_same(tmp_path):
    torch.manual_seed(1)
    config = WindowConfig(max_length=17, stride=5)
    made = Answerer.fresh(write_base(tmp_path / "base"), config)
    with torch.no_grad():
        made.model.classifier.weight *= 40
    save(made.loaded, tmp_path / "made")
    theirs, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "made", output_loading_info=True
    )
    assert not any(report.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    answerer = Answerer.load(tmp_path / "made")
    windows = make_windows(
        answerer.tokenizer, [QUESTION], [CONTEXT], max_length=17, stride=config.stride
    )
    room = 17 - len(answerer.tokenizer.encode(QUESTION)) - 3
    batch = tokenizer(
        QUESTION,
        CONTEXT,
        max_length=17,
        truncation="only_second",
        stride=room - config.stride,  # theirs is what windows share
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    assert len(windows) == len(batch["input_ids"]) > 2
    batch.pop("overflow_to_sample_mapping")
    offsets = batch.pop("offset_mapping")
    with torch.inference_mode():
        expected, exact = theirs.eval()(**batch), in_float64(theirs)(**batch)
    for row, window in enumerate(windows):
        n = len(window.ids)
        assert batch["input_ids"][row, :n].tolist() == window.ids
        assert batch["token_type_ids"][row, :n].tolist() == window.segments
        held = offsets[row, window.first : window.first + len(window.spans)].tolist()
        assert held == [list(span) for span in window.spans]
        ids, segments = torch.tensor([window.ids]), torch.tensor([window.segments])
        with torch.inference_mode():
            start, end = answerer.model(ids, segments=segments)[0].unbind(-1)
        for name, ours in (("start_logits", start), ("end_logits", end)):
            assert_as_exact(ours, *(output[name][row, :n] for output in (expected, exact)))
    assert expected.start_logits.std() > 1e-2
