# %% [markdown] tags=["intro"]
# # A learned sink
#
# **What changes: the softmax.** One more logit $b$ per head takes weight but has no value, so that a head can attend to almost nothing:
#
# $$a_{ij} = \frac{\exp s_{ij}}{\exp b + \sum_m \exp s_{im}}$$
#
# Without it, trained models put the weight that they do not need on the first tokens (Xiao et al. 2023). OpenAI 2025, gpt-oss. In the
# library: [`sink.py`](src/qkv/attention/variants/sink.py).

# %% tags=["scratch"]
from qkv.attention.variants.sink import SinkAttention


def with_sink(queries, keys, values, sinks):
    scores = queries @ keys.mT / 8**0.5
    scores = scores.masked_fill(torch.ones(17, 17).triu(1).bool(), -torch.inf)
    weights = scores.exp() / (sinks.exp()[:, None, None] + scores.exp().sum(-1, True))
    return weights @ values


module = SinkAttention(24, 3, causal=True).double()
torch.nn.init.normal_(module.sinks)
assert_equal(
    with_sink(queries, keys, values, module.sinks), module.attend(queries, keys, values, None)
)

# %% tags=["limit"]
# As the sink falls, it is standard attention; a sink of 0 is one more key and value of zeros.
standard = attention(queries, keys, values, causal=True)
assert_equal(with_sink(queries, keys, values, torch.full((3,), -50.0).double()), standard)
none = torch.zeros(2, 3, 1, 8).double()
mask = torch.cat((torch.ones(17, 1), torch.ones(17, 17).tril()), 1).bool()
more = attention(queries, torch.cat((none, keys), 2), torch.cat((none, values), 2), mask=mask)
assert_equal(with_sink(queries, keys, values, torch.zeros(3).double()), more)

# %% tags=["make"]
NAME = "learned sink"


def make(d_model, n_heads, layer):
    return SinkAttention(d_model, n_heads, causal=True)


# %% [markdown] tags=["verdict"]
# **It wins and loses nothing at this size**: no difference was larger than 8 points, and none beyond the spread of the seeds. A sink helps where heads have nothing to look for, in deep models and long texts, and where a window hides the first tokens.

# %% tags=["verdict"]
assert max(abs(gain["copying"]), abs(gain["recall"])) < 0.1
