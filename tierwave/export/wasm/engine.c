/*
 * The engine of `tierwave.engine.kernels` for web pages: the same operations and draws in the same order, for one voice
 * of one network, with weights as floats. Built by `make wasm` into engine.wasm; `tierwave/export/page/network.js` lays
 * the arrays out in its memory and calls `run`.
 *
 * Python's names are kept where both have them, and what they mean is said there. Weights come as the whole numbers of
 * int8, and each output has its scale, so that sums are the engine's but for the rounding of a fused multiplication. Two
 * groups of LANES outputs lie side by side, [inputs, 2 * LANES], and behind these the next two: as many sums as a
 * processor has registers for. Rows of tables lie one behind another, as there, and each has its scale.
 */

#include <stdint.h>
#include <wasm_simd128.h>

#define LANES 16 /* outputs of a matrix are filled up to a multiple of these */

enum { SET, LINEAR, ADD, RELU, TANH, CAP, GRU_AFTER, GRU_GATES, GRU_BLEND, LSTM, PHASED, CODES, LOOKUP, VALUES,
       CONTROLS, LOOKBACK, FIND };
enum { CATEGORICAL, GAUSSIANS, MIXTURES };

#define GREEDY 1e-30f /* temperatures below this mean 0 */
#define SHORTEST_PERIOD 1e-3
#define SMALLEST_RATIO_ON 1e-3
#define TAPS 4 /* points that a network looks up one period ago: OFFSETS of `tierwave.audio.lookback`, where the next are */
#define BEFORE 6
#define SHORTEST_LAG 8
#define LEAST 0.3
#define PRICE 0.1
#define LONGEST_LAG 4096 /* that there is room for: LONGEST */
#define COMPARED(limit) ((8 * (limit) + 14) / 15)
#define LOWEST -87.0f
#define HIGHEST 88.0f

/* From JavaScript's Math; only tiers of controls need them, at their low rates. */
__attribute__((import_module("math"), import_name("exp"))) double exponential(double);
__attribute__((import_module("math"), import_name("log"))) double logarithm(double);
__attribute__((import_module("math"), import_name("log1p"))) double logarithm_of_more(double);

/* All fields have four bytes; network.js fills them by number. */
typedef struct {
  int32_t operations, parts_count, history, features, inputs;
  const int32_t *program;  /* [operations, 6] */
  const int32_t *parts;    /* [parts, 3] */
  const int32_t *head;     /* [7] */
  const int32_t *matrices; /* [matrices, 4] */
  const float *weights, *vectors;
  float *memory, *sums, *shares;
  int32_t *codes;           /* [history + steps] */
  float *values;            /* [1 + steps, features] */
  const float *controls;    /* [steps, inputs] */
  const float *temperature; /* [steps] */
  const int32_t *top_k;     /* [steps] */
  float *predictions;       /* [steps, numbers] */
  uint32_t first_key, second_key;
  float floor, top_p;
} Network;

/* ---- products ---- */

/* Sums over all inputs for 1 or 2 groups of outputs. */
#define TILE(GROUPS)                                                                                                   \
  static inline void tile_##GROUPS(const float *weights, const float *source, int inputs, float *sums) {               \
    v128_t total[4 * GROUPS];                                                                                          \
    _Pragma("unroll") for (int part = 0; part < 4 * GROUPS; part++) total[part] = wasm_f32x4_splat(0);                 \
    for (int input = 0; input < inputs; input++, weights += LANES * GROUPS) {                                          \
      v128_t factor = wasm_v128_load32_splat(source + input);                                                          \
      _Pragma("unroll") for (int part = 0; part < 4 * GROUPS; part++) total[part] =                                    \
          wasm_f32x4_add(total[part], wasm_f32x4_mul(factor, wasm_v128_load(weights + 4 * part)));                     \
    }                                                                                                                  \
    _Pragma("unroll") for (int part = 0; part < 4 * GROUPS; part++) wasm_v128_store(sums + 4 * part, total[part]);     \
  }

TILE(1)
TILE(2)

/* target = source @ matrix + bias, or is increased by the product where there is no bias (-1). */
static void linear(const Network *net, const int32_t *matrix, int bias, float *target, const float *source) {
  const float *weights = net->weights + matrix[0], *scales = net->vectors + matrix[3];
  int inputs = matrix[1], outputs = matrix[2], first = 0;
  float *sums = net->sums;
  for (; first + LANES < outputs; first += 2 * LANES) tile_2(weights + first * inputs, source, inputs, sums + first);
  if (first < outputs) tile_1(weights + first * inputs, source, inputs, sums + first);
  if (bias < 0) {
    for (int index = 0; index < outputs; index++) target[index] += sums[index] * scales[index];
  } else {
    const float *added = net->vectors + bias;
    for (int index = 0; index < outputs; index++) target[index] = added[index] + sums[index] * scales[index];
  }
}

/* result += a row of a table. */
static void add_row(const Network *net, const int32_t *table, int row, float *result) {
  const float *given = net->weights + table[0] + row * ((table[2] + LANES - 1) / LANES * LANES);
  float scale = net->vectors[table[3] + row];
  for (int index = 0; index < table[2]; index++) result[index] += scale * given[index];
}

/* ---- functions of four numbers at once ---- */

static inline int32_t bits_of(float value) {
  int32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

static inline v128_t all(float value) { return wasm_f32x4_splat(value); }
static inline v128_t add(v128_t x, v128_t y) { return wasm_f32x4_add(x, y); }
static inline v128_t sub(v128_t x, v128_t y) { return wasm_f32x4_sub(x, y); }
static inline v128_t mul(v128_t x, v128_t y) { return wasm_f32x4_mul(x, y); }

/* Four numbers, of which some may lie behind the end of an array. */
static inline v128_t get(const float *from) { return wasm_v128_load(from); }

/* The first `left` of four numbers. */
static inline void put(float *to, v128_t value, int left) {
  if (left >= 4) {
    wasm_v128_store(to, value);
    return;
  }
  to[0] = wasm_f32x4_extract_lane(value, 0);
  if (left > 1) to[1] = wasm_f32x4_extract_lane(value, 1);
  if (left > 2) to[2] = wasm_f32x4_extract_lane(value, 2);
}

/* e^x to about 1e-7 of itself (Cephes' expf). */
static inline v128_t exp_(v128_t x) {
  x = wasm_f32x4_pmin(wasm_f32x4_pmax(x, all(LOWEST)), all(HIGHEST));
  v128_t shifted = add(mul(x, all(1.44269504088896341f)), all(12582912.0f)); /* its lowest bits: the nearest whole number */
  v128_t whole = sub(shifted, all(12582912.0f));
  x = sub(sub(x, mul(whole, all(0.693359375f))), mul(whole, all(-2.12194440e-4f)));
  v128_t series = add(mul(all(1.9875691500e-4f), x), all(1.3981999507e-3f));
  series = add(mul(series, x), all(8.3334519073e-3f));
  series = add(mul(series, x), all(4.1665795894e-2f));
  series = add(mul(series, x), all(1.6666665459e-1f));
  series = add(mul(series, x), all(0.5f));
  series = add(add(mul(mul(series, x), x), x), all(1.0f));
  v128_t power = wasm_i32x4_add(wasm_i32x4_sub(shifted, wasm_i32x4_splat(0x4B400000)), wasm_i32x4_splat(127));
  return mul(series, wasm_i32x4_shl(power, 23));
}

static inline v128_t sigmoid(v128_t x) { return wasm_f32x4_div(all(1), add(all(1), exp_(wasm_f32x4_neg(x)))); }

static inline v128_t tanh_(v128_t x) {
  return sub(all(1), wasm_f32x4_div(all(2), add(exp_(mul(all(2), x)), all(1))));
}

static double softplus(double x) {
  double size = x < 0 ? -x : x;
  return (x > 0 ? x : 0) + logarithm_of_more(exponential(-size));
}

/* ---- random numbers ---- */

/* Threefry-2x32 with 20 rounds, of a counter in place. */
static void threefry(uint32_t first_key, uint32_t second_key, uint32_t *first, uint32_t *second) {
  static const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  uint32_t keys[3] = {first_key, second_key, first_key ^ second_key ^ 0x1BD11BDAu};
  uint32_t a = *first + keys[0], b = *second + keys[1];
  for (int group = 0; group < 5; group++) {
    for (int round = 0; round < 4; round++) {
      int turn = turns[group % 2][round];
      a += b;
      b = ((b << turn) | (b >> (32 - turn))) ^ a;
    }
    a += keys[(group + 1) % 3];
    b += keys[(group + 2) % 3] + group + 1;
  }
  *first = a;
  *second = b;
}

/* The number in [0, 1) at a position, a multiple of 2^-24. */
static float uniform(const Network *net, uint64_t position) {
  uint32_t low = (uint32_t)position, high = (uint32_t)(position >> 32);
  threefry(net->first_key, net->second_key, &low, &high);
  return (float)(low >> 8) * 0x1p-24f;
}

static double polynomial(const double *coefficients, int count, double x) {
  double total = 0;
  for (int index = 0; index < count; index++) total = total * x + coefficients[index];
  return total;
}

/* A standard normal number from a uniform one, by the inverse of the distribution function (Cephes' ndtri). */
static double standard_normal(float uniform) {
  static const double p0[5] = {-5.99633501014107895267e1, 9.80010754185999661536e1, -5.66762857469070293439e1,
                               1.39312609387279679503e1, -1.23916583867381258016e0};
  static const double q0[9] = {1.0, 1.95448858338141759834e0, 4.67627912898881538453e0, 8.63602421390890590575e1,
                               -2.25462687854119370527e2, 2.00260212380060660359e2, -8.20372256168333339912e1,
                               1.59056225126211695515e1, -1.18331621121330003142e0};
  static const double p1[9] = {4.05544892305962419923e0, 3.15251094599893866154e1, 5.71628192246421288162e1,
                               4.40805073893200834700e1, 1.46849561928858024014e1, 2.18663306850790267539e0,
                               -1.40256079171354495875e-1, -3.50424626827848203418e-2, -8.57456785154685413611e-4};
  static const double q1[9] = {1.0, 1.57799883256466749731e1, 4.53907635128879210584e1, 4.13172038254672030440e1,
                               1.50425385692907503408e1, 2.50464946208309415979e0, -1.42182922854787788574e-1,
                               -3.80806407691578277194e-2, -9.33259480895457427372e-4};
  double centred = ((double)uniform - 0.5) + 0x1p-25;
  double tail = 0.5 - (centred < 0 ? -centred : centred), found;
  if (tail > 0.13533528323661269189) { /* e^-2 */
    double x = tail - 0.5, square = x * x;
    found = (x + x * square * polynomial(p0, 5, square) / polynomial(q0, 9, square)) * 2.50662827463100050;
  } else {
    double x = __builtin_sqrt(-2.0 * logarithm(tail)), inverse = 1.0 / x;
    found = -(x - logarithm(x) / x - inverse * polynomial(p1, 9, inverse) / polynomial(q1, 9, inverse));
  }
  return centred > 0 ? -found : found;
}

/* ---- what is drawn ---- */

/* Keep the fewest largest shares of which there are `count`, or that add up to `wanted` (count 0). */
static void keep_most_likely(float *shares, int levels, int count, float wanted) {
  int32_t low = 0, high = 0x40000000;
  for (int halving = 0; halving < 30; halving++) {
    int32_t middle = (int32_t)(((uint32_t)low + (uint32_t)high) / 2);
    float total = 0;
    int kept = 0;
    for (int level = 0; level < levels; level++) {
      if (bits_of(shares[level]) >= middle) {
        total += shares[level];
        kept += shares[level] > 0;
      }
    }
    if (count > 0 ? kept >= count : total >= wanted) low = middle;
    else high = middle;
  }
  for (int level = 0; level < levels; level++)
    if (bits_of(shares[level]) < low) shares[level] = 0;
}

/* The last entry with a share at which the running sum has not passed `target`. */
static int search(const float *shares, int count, float target) {
  float start = 0;
  int found = 0;
  for (int index = 0; index < count && !(start > target); index++) {
    if (shares[index] > 0) found = index;
    start += shares[index];
  }
  return found;
}

static int draw_code(const float *logits, int levels, float uniform, float temperature, int top_k, float top_p, float *shares) {
  float peak = logits[0];
  for (int level = 1; level < levels; level++) peak = logits[level] > peak ? logits[level] : peak;
  if (temperature < GREEDY) {
    int likeliest = 0;
    while (logits[likeliest] < peak) likeliest++;
    return likeliest;
  }
  float slope = 1.0f / temperature;
  for (int level = 0; level < levels; level += 4) {
    v128_t below = mul(sub(get(logits + level), all(peak)), all(slope));
    put(shares + level, wasm_v128_and(exp_(below), wasm_f32x4_gt(below, all(LOWEST))), levels - level);
  }
  if (0 < top_k && top_k < levels) {
    int there = 0;
    for (int level = 0; level < levels; level++) there += shares[level] > 0;
    keep_most_likely(shares, levels, top_k < there ? top_k : there, 0);
  }
  if (top_p < 1.0f) {
    float total = 0;
    for (int level = 0; level < levels; level++) total += shares[level];
    keep_most_likely(shares, levels, 0, top_p * total);
  }
  int width = (int)__builtin_sqrt((double)levels), blocks = (levels + width - 1) / width;
  for (int index = levels; index < blocks * width; index++) shares[index] = 0;
  float *sums = shares + blocks * width, total = 0;
  for (int block = 0; block < blocks; block++) {
    float inside = 0;
    for (int index = block * width; index < block * width + width; index++) inside += shares[index];
    sums[block] = inside;
    total += inside;
  }
  float target = uniform * total, start = 0, before = 0;
  int chosen = 0;
  for (int block = 0; block < blocks; block++) {
    if (sums[block] > 0 && start <= target) {
      chosen = block;
      before = start;
    }
    start += sums[block];
  }
  return chosen * width + search(shares + chosen * width, width, target - before);
}

static float draw_mixture(const Network *net, const float *at, int mixtures, int total, uint64_t place, float temperature) {
  const float *logits = at, *means = at + total, *raw = at + 2 * total;
  float peak = logits[0], sum = 0;
  int greedy = temperature < GREEDY;
  for (int index = 1; index < mixtures; index++) peak = logits[index] > peak ? logits[index] : peak;
  for (int index = 0; index < mixtures; index++) {
    net->shares[index] = greedy ? (float)(logits[index] >= peak) : wasm_f32x4_extract_lane(exp_(all(logits[index] - peak)), 0);
    sum += net->shares[index];
  }
  int chosen = search(net->shares, mixtures, greedy ? 0 : uniform(net, place) * sum);
  double deviation = softplus(raw[chosen]) + net->floor;
  return (float)(means[chosen] + temperature * deviation * standard_normal(uniform(net, place + 1)));
}

/* The code of a sound: how many of the edges between codes lie at or below it. */
static int code_of(double sound, const float *edges, int levels) {
  int low = 0, high = levels - 1;
  while (low < high) {
    int middle = (low + high) / 2;
    if (edges[middle] <= sound) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* The code that is left of a drawn one when the running mean is taken from it; kept: as of the engine. */
static int without_mean(int code, float *mean, const float *kept, int levels) {
  float sound = kept[1 + code];
  *mean += kept[0] * (sound - *mean);
  return code_of(sound - *mean, kept + 1 + levels, levels);
}

static void draw(const Network *net, int step, uint64_t position) {
  int kind = net->head[0], count = net->head[1], mixtures = net->head[2];
  const float *at = net->memory + net->head[3];
  float temperature = net->temperature[step];
  if (kind == CATEGORICAL) {
    int code = draw_code(at, count, uniform(net, position), temperature, net->top_k[step], net->top_p, net->shares);
    if (net->head[5] >= 0) code = without_mean(code, net->memory + net->head[6], net->vectors + net->head[5], count);
    net->codes[net->history + step] = code;
    return;
  }
  float *values = net->values + (1 + step) * count;
  for (int feature = 0; feature < count; feature++) {
    uint64_t number = position * count + feature;
    if (kind == GAUSSIANS) {
      double deviation = softplus(at[count + feature]) + net->floor;
      values[feature] = (float)(at[feature] + temperature * deviation * standard_normal(uniform(net, number)));
    } else {
      values[feature] = draw_mixture(net, at + feature * mixtures, mixtures, count * mixtures, 2 * number, temperature);
    }
  }
}

/* ---- operations ---- */

static void gru(float *h, const float *gates, const float *inner, int units) {
  for (int unit = 0; unit < units; unit += 4) {
    v128_t z = sigmoid(add(get(gates + unit), get(inner + unit)));
    v128_t r = sigmoid(add(get(gates + units + unit), get(inner + units + unit)));
    v128_t candidate = tanh_(add(get(gates + 2 * units + unit), mul(r, get(inner + 2 * units + unit))));
    put(h + unit, add(mul(z, sub(get(h + unit), candidate)), candidate), units - unit);
  }
}

static void gru_gates(float *held, float *gates, const float *h, int units) {
  for (int index = 0; index < 2 * units; index += 4) put(gates + index, sigmoid(get(gates + index)), 2 * units - index);
  for (int unit = 0; unit < units; unit++) held[unit] = gates[units + unit] * h[unit];
}

static void gru_blend(float *h, const float *gates, int units) {
  for (int unit = 0; unit < units; unit += 4) {
    v128_t candidate = tanh_(get(gates + 2 * units + unit));
    put(h + unit, add(mul(get(gates + unit), sub(get(h + unit), candidate)), candidate), units - unit);
  }
}

/* What an LSTM's step would make of four units: their next c, and h in its place. */
static inline v128_t lstm_step(v128_t *h, const float *c, const float *gates, int units) {
  v128_t kept = mul(sigmoid(get(gates + units)), get(c));
  v128_t next = add(kept, mul(sigmoid(get(gates)), tanh_(get(gates + 2 * units))));
  *h = mul(sigmoid(get(gates + 3 * units)), tanh_(next));
  return next;
}

static void lstm(float *h, float *c, const float *gates, int units) {
  for (int unit = 0; unit < units; unit += 4) {
    v128_t out, next = lstm_step(&out, c + unit, gates + unit, units);
    put(c + unit, next, units - unit);
    put(h + unit, out, units - unit);
  }
}

/* gate: period, phase and open share of each unit. */
static void phased_lstm(float *h, float *c, const float *gates, const float *gate, int units, double time) {
  for (int unit = 0; unit < units; unit += 4) {
    float shares[4];
    for (int index = 0; index < 4; index++) {
      const float *own = gate + (unit + index < units ? unit + index : unit);
      double period = *own > SHORTEST_PERIOD ? *own : SHORTEST_PERIOD;
      double turns = (time - own[units]) / period, cycle = turns - __builtin_floor(turns);
      double open = own[2 * units] > SMALLEST_RATIO_ON ? own[2 * units] : SMALLEST_RATIO_ON;
      double opening = 2.0 * cycle / open, falling = 2.0 - opening > 0 ? 2.0 - opening : 0;
      shares[index] = (float)(opening < 1.0 ? opening : falling);
    }
    v128_t share = get(shares), rest = sub(all(1), share);
    v128_t out, full = lstm_step(&out, c + unit, gates + unit, units);
    put(h + unit, add(mul(share, out), mul(rest, get(h + unit))), units - unit);
    put(c + unit, add(mul(share, full), mul(rest, get(c + unit))), units - unit);
  }
}

/*
 * What lies `share` (0 to 1) behind the fourth of eight samples, by the polynomial through all of them. In double and in
 * the engine's order, so that it is the same number: rounded otherwise, it can lie on the other side of an edge between
 * two codes.
 */
static double between(double share, const float *levels, const int32_t *past) {
  double a = share + 3.0, b = share + 2.0, c = share + 1.0, d = share;
  double e = share - 1.0, f = share - 2.0, g = share - 3.0, h = share - 4.0;
  double abc = a * b * c, fgh = f * g * h;
  double abcd = abc * d, efgh = e * fgh;
  return b * c * d * efgh / -5040.0 * levels[past[0]] + a * c * d * efgh / 720.0 * levels[past[1]] +
         a * b * d * efgh / -240.0 * levels[past[2]] + abc * efgh / 144.0 * levels[past[3]] +
         abcd * fgh / -144.0 * levels[past[4]] + abcd * e * g * h / 240.0 * levels[past[5]] +
         abcd * e * f * h / -720.0 * levels[past[6]] + abcd * e * f * g / 5040.0 * levels[past[7]];
}

/*
 * Add what stood one period ago. amplitudes: of codes [levels], behind which lie the edges between them [levels - 1];
 * past: codes from BEFORE samples behind the lag on; table: of rows [TAPS, levels].
 */
static void look_back(const Network *net, float *result, double lag, const float *amplitudes, const int32_t *past, const int32_t *table) {
  int levels = table[1] / TAPS;
  const float *edges = amplitudes + levels;
  double share = 1.0 - (lag - __builtin_floor(lag));
  for (int tap = 0; tap < TAPS; tap++) {
    double sound = between(share, amplitudes, past + tap);
    add_row(net, table, tap * levels + code_of(sound, edges, levels), result);
  }
}

/*
 * The lag by which the end of `past` is most like what was before; 0 where nothing is. past: codes [compared + limit + 1];
 * amplitudes: of the codes, whole numbers, so that sums are exact in any order, and the lag is the engine's to the bit.
 */
static float find_lag(const int32_t *past, const float *amplitudes, int limit) {
  /* Of eight beginnings at once, some may lie behind the last; what comes of these is not read. */
  static double sound[COMPARED(LONGEST_LAG) + LONGEST_LAG + 1 + 8], products[LONGEST_LAG + 2 + 8], alike[LONGEST_LAG + 2];
  int count = COMPARED(limit);
  const double *last = sound + limit + 1;
  for (int index = 0; index < count + limit + 1; index++) sound[index] = amplitudes[past[index]];
  for (int begin = 0; begin < limit + 2; begin += 8) {
    v128_t total[4];
    _Pragma("unroll") for (int part = 0; part < 4; part++) total[part] = wasm_f64x2_splat(0);
    for (int index = 0; index < count; index++) {
      v128_t factor = wasm_v128_load64_splat(last + index);
      _Pragma("unroll") for (int part = 0; part < 4; part++) total[part] = wasm_f64x2_add(
          total[part], wasm_f64x2_mul(factor, wasm_v128_load(sound + begin + index + 2 * part)));
    }
    _Pragma("unroll") for (int part = 0; part < 4; part++) wasm_v128_store(products + begin + 2 * part, total[part]);
  }
  double energy = 0;
  for (int index = 0; index < count; index++) energy += last[index] * last[index];
  double own = __builtin_sqrt(energy);
  for (int lag = 0; lag < limit + 2; lag++) {
    int begin = limit + 1 - lag;
    double scale = __builtin_sqrt(energy) * own;
    alike[lag] = scale > 0 ? products[begin] / scale : 0;
    if (lag <= limit) {
      double comes = sound[begin - 1], goes = sound[begin - 1 + count];
      energy += comes * comes - goes * goes;
    }
  }
  int best = 0;
  double highest = -1;
  for (int lag = SHORTEST_LAG; lag <= limit; lag++) {
    double here = alike[lag];
    if (!(here > alike[lag - 1] && here >= alike[lag + 1] && here > LEAST)) continue;
    double score = here - PRICE * lag / limit;
    if (score > highest) {
      best = lag;
      highest = score;
    }
  }
  if (best == 0) return 0;
  double left = alike[best - 1], right = alike[best + 1];
  return (float)(best + 0.5 * (left - right) / ((left - alike[best]) + (right - alike[best])));
}

static void operate(const Network *net, const int32_t *operation, int step, uint64_t time) {
  int count = operation[3], first = operation[4], second = operation[5];
  float *result = net->memory + operation[1], *source = net->memory + operation[2];
  const float *vector = net->vectors + first;
  switch (operation[0]) {
    case SET:
      for (int index = 0; index < count; index++) result[index] = vector[index];
      break;
    case LINEAR:
      linear(net, net->matrices + 4 * count, first, result, source);
      break;
    case ADD:
      source += time / first % second * count;
      for (int index = 0; index < count; index++) result[index] += source[index];
      break;
    case RELU:
      for (int index = 0; index < count; index++) result[index] = result[index] > 0 ? result[index] : 0;
      break;
    case TANH:
      for (int index = 0; index < count; index += 4) put(result + index, tanh_(get(source + index)), count - index);
      break;
    case CAP:
      for (int index = 0; index < count; index += 4) {
        v128_t squashed = tanh_(wasm_f32x4_div(get(result + index), all(*vector)));
        put(result + index, mul(all(*vector), squashed), count - index);
      }
      break;
    case GRU_AFTER:
      gru(result, source, net->memory + first, count);
      break;
    case GRU_GATES:
      gru_gates(result, source, net->memory + first, count);
      break;
    case GRU_BLEND:
      gru_blend(result, source, count);
      break;
    case LSTM:
      lstm(result, net->memory + first, source, count);
      break;
    case PHASED:
      phased_lstm(result, net->memory + first, source, net->vectors + second, count, (double)time);
      break;
    case CODES: {
      const int32_t *past = net->codes + net->history + step - count;
      for (int index = 0; index < count; index++) result[index] = vector[past[index]];
      break;
    }
    case LOOKUP: {
      int taps = operation[2];
      const int32_t *past = net->codes + net->history + step - taps, *table = net->matrices + 4 * first;
      for (int tap = 0; tap < taps; tap++) add_row(net, table, tap * (table[1] / taps) + past[tap], result);
      break;
    }
    case VALUES:
      for (int index = 0; index < count; index++) result[index] = net->values[step * net->features + index];
      break;
    case CONTROLS:
      for (int index = 0; index < count; index++) result[index] = net->controls[step * net->inputs + index];
      break;
    case LOOKBACK: {
      float lag = source[0] > 0 ? source[0] : source[1]; /* that of a control, or the one that was found */
      if (lag > 0) {
        const int32_t *past = net->codes + net->history + step - (int)__builtin_floor(lag) - BEFORE;
        look_back(net, result, lag, vector, past, net->matrices + 4 * second);
      }
      break;
    }
    case FIND:
      *result = find_lag(net->codes + net->history + step - COMPARED(second) - second - 1, vector, second);
      break;
  }
}

/* ---- what JavaScript calls ---- */

/*
 * Steps from `age` on, of which `position` drew random numbers. given: what is to be drawn lies there already; wanted:
 * predictions take what the head gives.
 */
__attribute__((export_name("run"))) void run(const Network *net, int steps, int given, int wanted, double age, double position) {
  int numbers = net->head[4], last = net->parts_count - (given && !wanted);
  for (int step = 0; step < steps; step++) {
    uint64_t time = (uint64_t)age + step;
    for (int part = 0; part < last; part++) {
      const int32_t *about = net->parts + 3 * part;
      if (time % about[0] != 0) continue;
      for (int index = about[1]; index < about[2]; index++) operate(net, net->program + 6 * index, step, time);
    }
    if (wanted)
      for (int index = 0; index < numbers; index++)
        net->predictions[step * numbers + index] = net->memory[net->head[3] + index];
    if (!given) draw(net, step, (uint64_t)position + step);
  }
}

/* The keys of the only voice from those of a seed, in place (`voice_seeds`). */
__attribute__((export_name("seed"))) void seed(Network *net, uint32_t low, uint32_t high) {
  uint32_t first = 0, second = 0;
  threefry(low, high, &first, &second);
  net->first_key = first;
  net->second_key = second;
}
