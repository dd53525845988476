import pytest
import torch
from tests.generation.toy import START, STOP, rnn, sources, transformer
from tests.helpers import assert_close, gpt

from qkv.attention.record import record_attention
from qkv.errors import ConfigError
from qkv.generation.attention import attention_of
from qkv.generation.beam import beam_search
from qkv.generation.ranking import Beam
from qkv.generation.sampling import sample

CROSS = {rnn: "decoder.attention", transformer: "decoder.blocks.0.cross_attention"}


def build(make):
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


@pytest.mark.parametrize("make", list(CROSS))
def test_it_is_what_one_pass_over_each_answer_alone_looks_at(make):
    model, (source, mask) = build(make), sources(rows=5)
    options = {"start": START, "stop": [STOP, 4, 6, 9, 11], "max_length": 7}
    found = beam_search(model, source, token_mask=mask, beam=Beam(size=3, n_best=3), **options)
    answers = [answers[row % 3] for row, answers in enumerate(found)]
    assert len({len(answer.tokens) for answer in answers}) > 1
    weights = attention_of(model, source, answers, token_mask=mask, start=START)
    looked = weights[CROSS[make]]
    assert looked.shape[2:] == (max(len(answer.tokens) for answer in answers), 5)
    for row, answer in enumerate(answers):
        read = torch.tensor([[START, *answer.tokens[:-1]]])
        with record_attention(model) as alone:
            model(source[row : row + 1, mask[row]], read)
        expected = alone[CROSS[make]][0]
        assert_close(looked[row, :, : len(answer.tokens), mask[row]], expected)
        assert (looked[row][..., ~mask[row]] == 0).all()


def test_chosen_layers_and_prefixes():
    model, (source, mask) = build(transformer), sources(rows=2)
    prefixes = [[START, 3, 4], [START]]
    options = {"token_mask": mask, "start": prefixes}
    answers = sample(model, source, stop=-1, max_length=4, seeds=[0, 1], **options)
    weights = attention_of(model, source, answers, layers=[CROSS[transformer]], **options)
    assert list(weights) == [CROSS[transformer]]
    assert weights[CROSS[transformer]].shape == (2, 2, 6, 5)  # 3 of the prefix, 3 of the answer
    with pytest.raises(ConfigError, match="no attention to record under"):
        attention_of(model, source, answers, layers=["nothing"], **options)


def test_a_prompt_is_among_queries_and_keys():
    model = gpt().model
    prompt = torch.tensor([[3, 4, 5]])
    answers = sample(model, prompt[:, :-1], start=5, stop=-1, max_length=4, seeds=[0])
    weights = attention_of(model, prompt[:, :-1], answers, start=5)
    read = torch.cat((prompt, torch.tensor([answers[0].tokens[:-1]])), 1)
    with record_attention(model) as whole:
        model(read)
    for name, expected in whole.items():
        assert_close(weights[name], expected.detach())
