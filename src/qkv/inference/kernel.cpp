// A step of a decoder's whole stack in one call, and a single linear layer.
//
// `decode` mirrors blocks/stack.py, blocks/block.py and attention/multi_head.py, in their order and
// with their names; the Python pages are what it is tested against. products.h has the products,
// attention.h what a head computes.

#include "attention.h"

// ---- One step of a decoder ----------------------------------------------------------------------

struct Norm {
  const float *weight, *bias;
  bool rms;
  float eps;
  Index d;

  void operator()(const float* x, Index rows, float* y) const {
    for (Index r = 0; r < rows; ++r, x += d, y += d) {
      float mean = 0, square = 0;
      if (!rms) {
        for (Index i = 0; i < d; ++i) mean += x[i];
        mean /= float(d);
      }
      for (Index i = 0; i < d; ++i) square += (x[i] - mean) * (x[i] - mean);
      const float inverse = 1 / std::sqrt(square / float(d) + eps);
      for (Index i = 0; i < d; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + (bias ? bias[i] : 0.f);
    }
  }
};

// x: `rows` = batch * n new tokens. See decoder.py for the order of `weights` and of `shape`.
struct Decoder {
  Index d, n_heads, n_groups, d_head, turned, past, n, batch;
  Activation activation;
  bool gated, rms, norm_first, interleaved;
  float eps;
  const float* turns;  // (1 or batch, n, turned): cosines and sines, as `rotate` turns (1, 0)
  bool own_turns;      // one for each row
  Index rows;
  std::vector<float> x, normed, projected, mixed, between, added;

  void rotate(float* head, Index row) const {
    const float* wave = turns + (own_turns ? row : row % n) * turned;
    for (Index i = 0; i < turned / 2; ++i) {
      const Index a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + turned / 2;
      const float cosine = wave[a], sine = wave[b], first = head[a], second = head[b];
      head[a] = first * cosine - second * sine;
      head[b] = first * sine + second * cosine;
    }
  }

  template <class F>
  void residual(const Norm& norm, const F& sublayer) {
    if (norm_first) {
      norm(x.data(), rows, normed.data());
      sublayer(normed.data(), added.data());
    } else {
      sublayer(x.data(), added.data());
    }
    for (size_t i = 0; i < x.size(); ++i) x[i] += added[i];
    if (!norm_first) norm(x.data(), rows, x.data());
  }

  void self_attention(const Linear& qkv, const Linear& output, const Memory& cache, const float* y, float* out) {
    const Index n_projected = (n_heads + 2 * n_groups) * d_head;
    projected.resize(rows * n_projected);
    qkv(y, rows, projected.data());
    for (Index r = 0; r < rows; ++r) {
      float* row = projected.data() + r * n_projected;
      if (turned)
        for (Index h = 0; h < n_heads + n_groups; ++h) rotate(row + h * d_head, r);
      const Index position = r / n * cache.batch_stride + (past + r % n) * cache.stride;
      for (Index g = 0; g < n_groups; ++g) {
        const float* key = row + (n_heads + g) * d_head;
        const Index at = position + g * cache.group_stride;
        std::copy(key, key + d_head, const_cast<float*>(cache.keys) + at);
        std::copy(key + n_groups * d_head, key + (n_groups + 1) * d_head, const_cast<float*>(cache.values) + at);
      }
    }
    const Attention attention{n_heads, n_groups, d_head, batch, n, past, true};
    attention(projected.data(), n_projected, cache, mixed.data());
    output(mixed.data(), rows, out);
  }

  void cross_attention(const Linear& query, const Linear& output, const Memory& memory, const float* y, float* out) {
    projected.resize(rows * n_heads * d_head);
    query(y, rows, projected.data());
    const Attention attention{n_heads, n_groups, d_head, batch, n, 0, false};
    attention(projected.data(), n_heads * d_head, memory, mixed.data());
    output(mixed.data(), rows, out);
  }

  void feed_forward(const Linear& up, const Linear& down, const float* y, float* out) {
    between.resize(rows * down.k);
    up(y, rows, between.data(), activation, gated);
    down(between.data(), rows, out);
  }
};

// ---- What PyTorch calls -------------------------------------------------------------------------

template <class T>
static const T* data(const Tensor& x) {
  return x.numel() ? (const T*)x.const_data_ptr() : nullptr;
}

static Linear linear_of(const Tensor& weight, const Tensor& scales, const Tensor& bias) {
  using torch::headeronly::ScalarType;
  const ScalarType type = weight.scalar_type();
  const bool grouped = scales.numel() && scales.scalar_type() == ScalarType::Half;
  Linear f{weight.const_data_ptr(), scales.numel() ? scales.const_data_ptr() : nullptr, data<float>(bias),
           type == ScalarType::Float      ? FLOAT32
           : type == ScalarType::BFloat16 ? BFLOAT16
           : type == ScalarType::Byte     ? GROUPS4
           : grouped                      ? GROUPS8
                                          : INT8,
           weight.size(0), weight.size(1)};
  if (f.kind == GROUPS4) f.k *= 2;
  STD_TORCH_CHECK(f.kind < GROUPS8 || f.k <= GROUP * MOST_GROUPS, "a weight in groups is wider than 32,768 columns");
  return f;
}

static Tensor linear(Tensor x, Tensor weight, Tensor scales, Tensor bias, Index activation) {
  const Linear f = linear_of(weight, scales, bias);
  const Index rows = x.numel() / f.k;
  STD_TORCH_CHECK(x.is_contiguous() && x.size(-1) == f.k, "the rows of x are not as wide as those of the weight");
  std::vector<Index> shape;
  for (Index i = 0; i + 1 < x.dim(); ++i) shape.push_back(x.size(i));
  shape.push_back(f.n);
  Tensor y = torch::stable::new_empty(x, shape);
  f(data<float>(x), rows, (float*)y.mutable_data_ptr(), Activation(activation));
  return y;
}

template <class W>
static void expand_rows(const W& w, Index n, float* y) {
  torch::stable::parallel_for(0, n, std::max<Index>(1, (1 << 14) / std::max<Index>(1, w.k)), [&](Index from, Index to) {
    float groups[2 * MOST_GROUPS];
    for (Index row = from; row < to; ++row) {
      w.prepare(row, groups);
      float* out = y + row * w.k;
      Index i = 0;
      for (; i + GROUP <= w.k; i += GROUP) {
        Floats expanded[LANES];
        w.expand(row, i, groups, expanded);
        std::memcpy(out + i, expanded, sizeof expanded);
      }
      for (; i < w.k; ++i) out[i] = w.value(row, i);
      for (i = 0; i < w.k; ++i) out[i] *= w.factor(row);
    }
  });
}

// Integer weights as float32 (N, K).
static Tensor expand(Tensor weight, Tensor scales) {
  const Linear f = linear_of(weight, scales, torch::stable::new_empty(weight, {0}));
  Tensor y = torch::stable::new_empty(weight, {f.n, f.k}, torch::headeronly::ScalarType::Float);
  float* out = (float*)y.mutable_data_ptr();
  if (f.kind == GROUPS4) expand_rows(Groups4{(const uint8_t*)f.weight, (const uint16_t*)f.scales, f.k}, f.n, out);
  else if (f.kind == GROUPS8) expand_rows(Groups8{(const int8_t*)f.weight, (const uint16_t*)f.scales, f.k}, f.n, out);
  else if (f.kind == INT8) expand_rows(Plain<int8_t>{(const int8_t*)f.weight, (const float*)f.scales, f.k}, f.n, out);
  else STD_TORCH_CHECK(false, "only integers are expanded");
  return y;
}

// Queries (B, Q, H, D), perhaps a part of wider rows, that see all keys (B, G, K, D) that the mask (B, K) allows.
static Tensor attend_to_all(Tensor queries, Tensor keys, Tensor values, Tensor mask) {
  const Index batch = queries.size(0), n = queries.size(1), n_heads = queries.size(2), d = queries.size(3);
  const Memory memory{data<float>(keys), data<float>(values), data<bool>(mask), keys.stride(0), keys.stride(1),
                      keys.stride(2), keys.size(2), 1};
  Tensor y = torch::stable::new_empty(queries, {batch, n, n_heads, d});
  const Attention attention{n_heads, keys.size(1), d, batch, n, 0, false};
  attention(data<float>(queries), n > 1 ? queries.stride(1) : n_heads * d, memory, (float*)y.mutable_data_ptr());
  return y;
}

// The last bits of 1.5 * 2^23 + 128 + an integer, which has no room for a fraction, are the integer + 128.
static uint8_t shifted(float integer) {
  const float sum = integer + (12582912.f + 128);
  uint32_t bits;
  std::memcpy(&bits, &sum, 4);
  return uint8_t(bits);
}

// Calls f(row, r) for each row of x, in which the given columns are 0.
template <class F>
static void each_row(const Tensor& x, const Tensor& columns, const F& f) {
  const Index k = x.size(-1), rows = x.numel() / std::max<Index>(1, k), n_columns = columns.numel();
  const Index* column = data<Index>(columns);
  const float* all = data<float>(x);
  torch::stable::parallel_for(0, rows, std::max<Index>(1, (1 << 14) / k), [&](Index from, Index to) {
    std::vector<float> row(k);
    for (Index r = from; r < to; ++r) {
      std::copy(all + r * k, all + (r + 1) * k, row.begin());
      for (Index c = 0; c < n_columns; ++c) row[column[c]] = 0;
      f(row.data(), r);
    }
  });
}

// Each row as 8 bits, round(127 x / max|x|) + 128, and its step, max|x| / 127. The step is negative if the largest number is
// more than `outlier` times the root mean square, and NaN if it is more than `extreme` times the mean of the other |x|, or if
// a number is not finite or all are tiny.
static Tensor round_rows(Tensor x, Tensor columns, Tensor integers, double outlier, double extreme) {
  const Index k = x.size(-1);
  Tensor steps = torch::stable::new_empty(x, {x.numel() / std::max<Index>(1, k), 1});
  float* step = (float*)steps.mutable_data_ptr();
  uint8_t* y = (uint8_t*)integers.mutable_data_ptr();
  each_row(x, columns, [=](const float* row, Index r) {
    const float most = largest(row, k), inverse = most > 1e-18f && most < 1e18f ? 127 / most : 0;  // squares are numbers
    float squares = 0, total = 0;
    for (Index i = 0; i < k; ++i) squares += row[i] * row[i], total += std::fabs(row[i]);
    const bool usual = most * most * float(k) <= float(outlier * outlier) * squares;
    const bool close = most * float(k) <= float(extreme) * (total - most);
    step[r] = most == 0 ? 0 : !inverse || !(usual || close) ? NAN : usual ? most / 127 : -most / 127;
    for (Index i = 0; i < k; ++i) y[r * k + i] = shifted(std::nearbyint(row[i] * inverse));
  });
  return steps;
}

// What `round_rows` leaves: at most half a step, as round(254 x / step) + 128.
static void round_rest(Tensor x, Tensor columns, Tensor steps, Tensor integers) {
  const Index k = x.size(-1);
  const float* step = data<float>(steps);
  uint8_t* y = (uint8_t*)integers.mutable_data_ptr();
  each_row(x, columns, [=](const float* row, Index r) {
    const float inverse = step[r] ? 1 / std::fabs(step[r]) : 0;
    for (Index i = 0; i < k; ++i) {
      const float scaled = row[i] * inverse;
      y[r * k + i] = shifted(std::nearbyint((scaled - std::nearbyint(scaled)) * 254));
    }
  });
}

// For each column, the number of rows in which it exceeds `outlier` times the row's root mean square: float32 (k,).
static Tensor count_large(Tensor x, double outlier) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Index k = x.size(1), rows = x.size(0);
  const float* all = data<float>(x);
  std::vector<float> limits(rows);  // infinity: no number is larger
  torch::stable::parallel_for(0, rows, std::max<Index>(1, (1 << 14) / k), [&](Index from, Index to) {
    for (Index r = from; r < to; ++r) {
      const float limit = float(outlier) * std::sqrt(dot(all + r * k, all + r * k, k) / float(k));
      limits[r] = largest(all + r * k, k) > limit ? limit : infinity;
    }
  });
  Tensor counts = torch::stable::new_empty(x, {k});
  float* count = (float*)counts.mutable_data_ptr();
  std::fill(count, count + k, 0.f);
  torch::stable::parallel_for(0, k, std::max<Index>(16, (1 << 14) / rows), [&](Index from, Index to) {
    for (Index r = 0; r < rows; ++r) {
      const float limit = limits[r];
      if (limit == infinity) continue;
      for (Index i = from; i < to; ++i) count[i] += std::fabs(all[r * k + i]) > limit ? 1.f : 0.f;
    }
  });
  return counts;
}

// y (rows, n), products of integers: multiply each row by its |step|, add the bias and the products of the columns of x that
// were left out, and activate.
static void finish_rows(Tensor y, Tensor steps, Tensor bias, Tensor x, Tensor columns, Tensor weight, Tensor scales,
                        Index activation) {
  const Index n = y.size(1), k = x.size(1), rows = y.size(0), n_columns = columns.numel(), padded = (n + L - 1) / L * L;
  const Index* column = data<Index>(columns);
  const float *step = data<float>(steps), *added = data<float>(bias), *in = data<float>(x), *scale = data<float>(scales);
  const int8_t* w = data<int8_t>(weight);
  std::vector<float> left_out(n_columns * padded);
  torch::stable::parallel_for(0, n, std::max<Index>(64, (1 << 14) / std::max<Index>(1, n_columns)), [&](Index from, Index to) {
    for (Index j = from; j < to; ++j)
      for (Index c = 0; c < n_columns; ++c) left_out[c * padded + j] = float(w[j * k + column[c]]) * scale[j];
  });
  float* all = (float*)y.mutable_data_ptr();
  torch::stable::parallel_for(0, rows, std::max<Index>(1, (1 << 14) / n), [&](Index from, Index to) {
    std::vector<float> factors(n_columns), sums(padded);
    for (Index r = from; r < to; ++r) {
      float* row = all + r * n;
      for (Index c = 0; c < n_columns; ++c) factors[c] = in[r * k + column[c]];
      add_values<1>(factors.data(), 0, left_out.data(), padded, n_columns, padded, sums.data(), 0);
      const float factor = std::fabs(step[r]);
      for (Index j = 0; j < n; ++j) row[j] = row[j] * factor + (added ? added[j] : 0.f) + sums[j];
      activate(Activation(activation), row, n);
    }
  });
}

static Tensor decode(Tensor x, Tensor turns, Tensor mask, Tensor memory_mask, std::vector<Tensor> weights,
                     std::vector<Tensor> caches, std::vector<Index> shape, double eps) {
  auto number = shape.begin();
  Decoder it{};
  const Index n_layers = *number++;
  it.n_heads = *number++, it.n_groups = *number++, it.d_head = *number++;
  it.activation = Activation(*number++), it.gated = *number++, it.rms = *number++, it.norm_first = *number++;
  it.turned = *number++, it.interleaved = *number++;
  const bool cross = *number++, closes = *number++;  // with the stack's last norm
  it.past = *number++;
  it.batch = x.size(0), it.n = x.size(1), it.d = x.size(2), it.rows = it.batch * it.n, it.eps = float(eps);
  it.turns = data<float>(turns), it.own_turns = turns.numel() != it.n * it.turned;
  it.x.assign(data<float>(x), data<float>(x) + x.numel());
  it.normed.resize(x.numel()), it.added.resize(x.numel()), it.mixed.resize(it.rows * it.n_heads * it.d_head);

  auto weight = weights.begin(), cache = caches.begin();
  const auto norm = [&] {
    const float *scale = data<float>(*weight++), *bias = data<float>(*weight++);
    return Norm{scale, bias, it.rms, it.eps, it.d};
  };
  const auto product = [&] {
    weight += 3;
    return linear_of(weight[-3], weight[-2], weight[-1]);
  };
  const auto memory = [&](const Tensor& seen, Index length, bool shared) {
    const Tensor keys = *cache++, values = *cache++;
    const Index rows = keys.size(0);
    STD_TORCH_CHECK(rows == it.batch || (shared && rows && it.batch % rows == 0), "x has other rows than a cache");
    return Memory{data<float>(keys), data<float>(values), data<bool>(seen), keys.stride(0), keys.stride(1), keys.stride(2),
                  length, it.batch / rows};
  };
  for (Index layer = 0; layer < n_layers; ++layer) {
    const Norm first = norm();
    const Linear qkv = product(), output = product();
    const Memory own = memory(mask, it.past + it.n, false);
    it.residual(first, [&](const float* y, float* out) { it.self_attention(qkv, output, own, y, out); });
    if (cross) {
      const Norm second = norm();
      const Linear query = product(), joined = product();
      const Memory other = memory(memory_mask, cache->size(2), true);
      it.residual(second, [&](const float* y, float* out) { it.cross_attention(query, joined, other, y, out); });
    }
    const Norm third = norm();
    const Linear up = product(), down = product();
    it.residual(third, [&](const float* y, float* out) { it.feed_forward(up, down, y, out); });
  }
  Tensor result = torch::stable::new_empty(x, {it.batch, it.n, it.d});
  float* y = (float*)result.mutable_data_ptr();
  if (closes) norm()(it.x.data(), it.rows, y);
  else std::copy(it.x.begin(), it.x.end(), y);
  return result;
}

STABLE_TORCH_LIBRARY(qkv, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor scales, Tensor bias, int activation) -> Tensor");
  m.def("expand(Tensor weight, Tensor scales) -> Tensor");
  m.def("attend(Tensor queries, Tensor keys, Tensor values, Tensor mask) -> Tensor");
  m.def("round_rows(Tensor x, Tensor columns, Tensor(a!) integers, float outlier, float extreme) -> Tensor");
  m.def("round_rest(Tensor x, Tensor columns, Tensor steps, Tensor(a!) integers) -> ()");
  m.def("finish_rows(Tensor(a!) y, Tensor steps, Tensor bias, Tensor x, Tensor columns, Tensor weight, Tensor scales, int activation) -> ()");
  m.def("count_large(Tensor x, float outlier) -> Tensor");
  m.def("decode(Tensor x, Tensor turns, Tensor mask, Tensor memory_mask, Tensor[] weights, Tensor[] caches, int[] shape, float eps) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(qkv, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("expand", TORCH_BOX(&expand));
  m.impl("attend", TORCH_BOX(&attend_to_all));
  m.impl("round_rows", TORCH_BOX(&round_rows));
  m.impl("round_rest", TORCH_BOX(&round_rest));
  m.impl("count_large", TORCH_BOX(&count_large));
  m.impl("finish_rows", TORCH_BOX(&finish_rows));
  m.impl("decode", TORCH_BOX(&decode));
}
