// Eqs. 4-8 of arXiv 2604.03297 and their gradients on a CPU, for features that are projected to the channels of x.
//
// Features are channels-last, so that the vectors that a pixel reads are contiguous. A feature is interpolated along
// its first two axes once for every row of pixels, and along the last axis for every pixel: V = (1-a) u + a v, where u
// and v are neighbours in the row. The factors of the logit, q.V and |V|^2, follow from three numbers for every vector
// u of a row, q.u, |u|^2 and u.v, because
//
//     q.V = (1-a) q.u + a q.v,    |V|^2 = (1-a)^2 |u|^2 + 2 a (1-a) u.v + a^2 |v|^2.
//
// The backward pass sums the gradients of these numbers over the pixels of a row before it multiplies vectors by them.
//
// Two-dimensional images have the size (H, 1, W). Threads compute slabs, which are some planes along the first axis of
// one sample. Every slab has its own sums, which are added in a fixed order, so the results do not depend on the number
// of threads. Channels-last tensors have their channels padded with zeros to a multiple of 64 bytes.

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpp_threads.h"

namespace {

// The arguments. `cpp_backend.py` declares the same structures.

// How positions along an axis are interpolated: position p reads the elements lower[p] and upper[p], which are equal at
// the end of the axis, with the weights 1 - fraction[p] and fraction[p]. All null for an axis that is not interpolated.
template <typename T>
struct Axis {
    const int32_t *lower, *upper;
    const T *fraction;
};

template <typename T>
struct Feature {
    // (B, channels, *length) where it is not projected, and the kernels copy it to `value`. Else null.
    const T *source;
    T *value;        // (B, *length, C)
    T *gradient;     // as `value`, or null if it is not needed
    T *grad_source;  // as `source`, or null
    // Where there is a gradient and the first axis is interpolated: (B, slabs, planes, *length[1:], C), the sums of
    // every slab for the planes from the first that it reads.
    T *sums;
    T *grad_bias;    // (B, slabs, C), the sums of `gradient` over the pixels, or null
    Axis<T> axes[3];
    int64_t length[3];
    int64_t planes;

    bool is_interpolated() const { return axes[0].lower || axes[1].lower || axes[2].lower; }
};

// Some channels of x.
template <typename T>
struct Part {
    const T *value;  // (B, channels, *size)
    T *gradient;     // as `value`, or null if it is not needed
    int64_t channels;
};

template <typename T>
struct Arguments {
    const Feature<T> *features;
    const Part<T> *parts;
    const T *query;       // q, the pseudo-query times the gain, (C,)
    const T *gate;        // one element, or null
    T *out;               // (B, channels, *size)
    T *alpha;             // (B, K+1, *size)
    const T *grad_out;    // as `out`
    const T *grad_alpha;  // as `alpha`, or null for zero
    T *grad_query;        // (B, slabs, C)
    T *grad_gate;         // (B, slabs)
    int64_t samples;  // B
    int64_t threads;
    int64_t feature_count;
    int64_t part_count;
    int64_t channels;         // of x
    int64_t padded_channels;  // C
    int64_t size[3];
    int64_t slabs;  // of a sample
    int64_t planes_per_slab;
    double eps;
};

// Vectors of 32 bytes, which compilers split where a CPU has none.
constexpr int64_t BYTES = 32;

template <typename T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::Type;
template <typename T>
constexpr int64_t LANES = BYTES / sizeof(T);

template <typename T>
Vector<T> load(const T *from) {
    Vector<T> vector;
    std::memcpy(&vector, from, BYTES);
    return vector;
}

template <typename T>
void store(T *to, const Vector<T> &vector) {
    std::memcpy(to, &vector, BYTES);
}

template <typename T>
T sum_lanes(const Vector<T> &vector) {
    typedef T Half __attribute__((vector_size(BYTES / 2)));
    Half first, second;
    std::memcpy(&first, &vector, BYTES / 2);
    std::memcpy(&second, reinterpret_cast<const char *>(&vector) + BYTES / 2, BYTES / 2);
    first += second;
    if constexpr (LANES<T> == 8) return (first[0] + first[1]) + (first[2] + first[3]);
    return first[0] + first[1];
}

template <typename T>
T dot(const T *a, const T *b, int64_t n) {
    Vector<T> sum = {};
    for (int64_t i = 0; i < n; i += LANES<T>) sum += load(a + i) * load(b + i);
    return sum_lanes<T>(sum);
}

// out += factor * in
template <typename T>
void add(T *out, T factor, const T *in, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES<T>) store<T>(out + i, load(out + i) + factor * load(in + i));
}

// The pixels of a row that are computed together. A channel of a block is contiguous, and long enough for the memory.
constexpr int64_t BLOCK = 64;

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLEVECTOR
#endif
#endif

// Of every two times STEP lanes, take the first STEP of a and then of b, or the last of both if OFFSET is STEP.
template <typename T, int64_t STEP, int64_t OFFSET, size_t... J>
Vector<T> interleave(const Vector<T> &a, const Vector<T> &b, std::index_sequence<J...>) {
    constexpr int64_t N = LANES<T>;
#ifdef HAS_SHUFFLEVECTOR
    return __builtin_shufflevector(a, b, (int64_t(J) & STEP ? N + int64_t(J) - STEP + OFFSET : int64_t(J) + OFFSET)...);
#else  // GCC before 12
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
    typedef Index Mask __attribute__((vector_size(BYTES)));
    return __builtin_shuffle(
        a, b, Mask{Index(int64_t(J) & STEP ? N + int64_t(J) - STEP + OFFSET : int64_t(J) + OFFSET)...});
#endif
}

template <typename T, int64_t STEP = 1>
void transpose(Vector<T> (&rows)[LANES<T>]) {
    constexpr auto lanes = std::make_index_sequence<LANES<T>>();
    for (int64_t i = 0; i < LANES<T>; ++i) {
        if (i & STEP) continue;
        const Vector<T> first = interleave<T, STEP, 0>(rows[i], rows[i + STEP], lanes);
        rows[i + STEP] = interleave<T, STEP, STEP>(rows[i], rows[i + STEP], lanes);
        rows[i] = first;
    }
    if constexpr (2 * STEP < LANES<T>) transpose<T, 2 * STEP>(rows);
}

template <typename T, size_t... I>
void transpose_block(T *out, int64_t out_stride, const T *in, int64_t in_stride, std::index_sequence<I...>) {
    Vector<T> rows[] = {load(in + I * in_stride)...};
    transpose<T>(rows);
    (store<T>(out + I * out_stride, rows[I]), ...);
}

// out[j * out_stride + i] = in[i * in_stride + j] for i < rows and j < columns
template <typename T>
void transpose(T *out, int64_t out_stride, const T *in, int64_t in_stride, int64_t rows, int64_t columns) {
    constexpr int64_t N = LANES<T>;
    const int64_t whole_rows = rows - rows % N, whole_columns = columns - columns % N;
    for (int64_t i = 0; i < whole_rows; i += N)
        for (int64_t j = 0; j < whole_columns; j += N)
            transpose_block(out + j * out_stride + i, out_stride, in + i * in_stride + j, in_stride,
                            std::make_index_sequence<N>());
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j)
            out[j * out_stride + i] = in[i * in_stride + j];
}

// From (channels, pixels) to (pixels, C), for the first `count` pixels of a block.
template <typename T>
void to_channels_last(T *out, int64_t C, const T *in, int64_t pixels, int64_t channels, int64_t count) {
    for (int64_t c = 0; c < channels; c += LANES<T>)
        transpose(out + c, C, in + c * pixels, pixels, std::min(LANES<T>, channels - c), count);
}

// From (pixels, C) to (channels, pixels), likewise.
template <typename T>
void to_channels_first(T *out, int64_t pixels, const T *in, int64_t C, int64_t channels, int64_t count) {
    for (int64_t c = 0; c < channels; c += LANES<T>)
        transpose(out + c * pixels, pixels, in + c, C, count, std::min(LANES<T>, channels - c));
}

// The elements along an axis that one position reads, and their weights; `index` and `weight` always have two.
template <typename T>
struct Taps {
    int64_t index[2];
    T weight[2];
    int count;

    Taps(const Axis<T> &axis, int64_t position) {
        index[0] = axis.lower ? axis.lower[position] : position;
        index[1] = axis.lower ? axis.upper[position] : position;
        count = index[0] == index[1] ? 1 : 2;
        weight[1] = count == 2 ? axis.fraction[position] : T(0);
        weight[0] = 1 - weight[1];
    }
};

// A term of a sum over vectors.
template <typename T>
struct Term {
    T weight;
    const T *vector;
};

// A row of a feature: its vectors u, interpolated along the first two axes, with their numbers and gradients.
template <typename T>
struct Row {
    std::vector<Taps<T>> taps;                       // of every pixel along the last axis
    std::vector<T> interpolated;                     // (length, C), unless the row is one of the feature
    const T *value = nullptr;                        // (length, C), these or those of the feature
    std::vector<T> product, square, cross;           // q.u, |u|^2, and u.v with the next vector v
    std::vector<T> gradient;                         // (length, C), where the feature is interpolated along any axis
    std::vector<T> d_product, d_square, d_cross;     // d_square and d_cross are twice the gradients
    std::vector<T> d_bias;                           // (C,)
};

// One slab of one sample.
template <typename T>
class Slab {
  public:
    Slab(const Arguments<T> &arguments, int64_t sample, int64_t slab)
        : a(arguments), C(a.padded_channels), K(a.feature_count), sample(sample), begin(slab * a.planes_per_slab),
          end(std::min(a.size[0], begin + a.planes_per_slab)), sums_index(sample * a.slabs + slab),
          pixels(a.size[0] * a.size[1] * a.size[2]), rows(K), terms(2 * K + 1), current(BLOCK * C),
          product((K + 1) * BLOCK), square((K + 1) * BLOCK), rstd((K + 1) * BLOCK), alpha((K + 1) * BLOCK) {
        for (int64_t n = 0; n < K; ++n)
            for (int64_t x = 0; x < a.size[2]; ++x) rows[n].taps.emplace_back(a.features[n].axes[2], x);
    }

    void forward() {
        std::vector<T> out(BLOCK * C);
        for_each_row([&](int64_t z, int64_t y) {
            for_each_block(z, y, [&](int64_t x, int64_t pixel, int64_t count) {
                for (int64_t i = 0; i < count; ++i) sum_values(x + i, i, &out[i * C]);
                to_channels_first(a.out + sample * a.channels * pixels + pixel, pixels, out.data(), C, a.channels,
                                  count);
                for (int64_t n = 0; n <= K; ++n)
                    for (int64_t i = 0; i < count; ++i)
                        a.alpha[(sample * (K + 1) + n) * pixels + pixel + i] = gated(n, i);
            });
        });
    }

    void backward() {
        grad.resize(BLOCK * C);
        grad_current.resize(BLOCK * C);
        d_alpha.resize((K + 1) * BLOCK);
        // sums of a row are added to those of the slab, because many small terms added to a large sum lose digits
        d_query.resize(C);
        double d_gate_of_slab = 0;
        clear_sums();
        for_each_row([&](int64_t z, int64_t y) {
            std::fill(d_query.begin(), d_query.end(), T(0));
            d_gate = 0;
            for (int64_t n = 0; n < K; ++n) clear_gradients(n);
            for_each_block(z, y, [&](int64_t x, int64_t pixel, int64_t count) {
                to_channels_last(grad.data(), C, a.grad_out + sample * a.channels * pixels + pixel, pixels, a.channels,
                                 count);
                for (int64_t i = 0; i < count; ++i) backward_pixel(x + i, i, pixel + i);
                write_current_gradients(pixel, count);
            });
            for (int64_t n = 0; n < K; ++n) {
                write_row_gradients(n, z, y);
                if (a.features[n].grad_bias) add(a.features[n].grad_bias + sums_index * C, T(1), &rows[n].d_bias[0], C);
            }
            add(a.grad_query + sums_index * C, T(1), d_query.data(), C);
            d_gate_of_slab += d_gate;
        });
        a.grad_gate[sums_index] = T(d_gate_of_slab);
    }

  private:
    const Arguments<T> &a;
    const int64_t C, K, sample, begin, end;  // the planes from `begin` to before `end`
    const int64_t sums_index;                // of the slab among those of all samples
    const int64_t pixels;
    std::vector<Row<T>> rows;
    std::vector<Term<T>> terms;
    // of the pixels of a block: (pixels, C), and numbers for each of the K+1 values, (K+1, pixels)
    std::vector<T> current, grad, grad_current;
    std::vector<T> product, square, rstd, alpha, d_alpha;
    // of the pixels of a row
    std::vector<T> d_query;
    double d_gate = 0;

    template <typename Function>
    void for_each_row(Function function) {
        for (int64_t z = begin; z < end; ++z)
            for (int64_t y = 0; y < a.size[1]; ++y) {
                for (int64_t n = 0; n < K; ++n) read_row(n, z, y);
                function(z, y);
            }
    }

    template <typename Function>
    void for_each_block(int64_t z, int64_t y, Function function) {
        for (int64_t x = 0; x < a.size[2]; x += BLOCK) {
            const int64_t pixel = (z * a.size[1] + y) * a.size[2] + x, count = std::min(BLOCK, a.size[2] - x);
            int64_t first = 0;
            for (int64_t p = 0; p < a.part_count; ++p) {
                const Part<T> &part = a.parts[p];
                to_channels_last(&current[first], C, part.value + sample * part.channels * pixels + pixel, pixels,
                                 part.channels, count);
                first += part.channels;
            }
            attend(x, count);
            function(x, pixel, count);
        }
    }

    // Call function(weight, plane, line) for the lines of feature n that a row of pixels reads.
    template <typename Function>
    void for_each_line(int64_t n, int64_t z, int64_t y, Function function) const {
        const Taps<T> planes(a.features[n].axes[0], z), lines(a.features[n].axes[1], y);
        for (int i = 0; i < planes.count; ++i)
            for (int j = 0; j < lines.count; ++j)
                function(planes.weight[i] * lines.weight[j], planes.index[i], lines.index[j]);
    }

    // Interpolate feature n along the first two axes.
    void read_row(int64_t n, int64_t z, int64_t y) {
        const Feature<T> &feature = a.features[n];
        Row<T> &row = rows[n];
        const int64_t length = feature.length[2];
        Term<T> sources[4];
        int count = 0;
        for_each_line(n, z, y, [&](T weight, int64_t plane, int64_t line) {
            line += (sample * feature.length[0] + plane) * feature.length[1];
            sources[count++] = {weight, feature.value + line * length * C};
        });
        if (count == 1) {
            row.value = sources[0].vector;
        } else {
            row.interpolated.resize(length * C);
            row.value = row.interpolated.data();
        }
        for (std::vector<T> *numbers : {&row.product, &row.square, &row.cross}) numbers->assign(length, T(0));
        const bool neighbours = feature.axes[2].lower != nullptr;
        if (count == 1) read_vectors<1>(row, sources, length, neighbours);
        if (count == 2) read_vectors<2>(row, sources, length, neighbours);
        if (count == 4) read_vectors<4>(row, sources, length, neighbours);
    }

    // Sum the rows of the feature, and compute the numbers of the vectors in the same pass.
    template <int COUNT>
    void read_vectors(Row<T> &row, const Term<T> (&sources)[4], int64_t length, bool neighbours) {
        for (int64_t i = 0; i < length; ++i) {
            const bool has_previous = neighbours && i > 0;
            const T *previous = row.value + (i - has_previous) * C;
            Vector<T> product = {}, square = {}, cross = {};
            for (int64_t c = 0; c < C; c += LANES<T>) {
                Vector<T> u = load(sources[0].vector + i * C + c);
                if constexpr (COUNT > 1) {
                    u *= sources[0].weight;
                    for (int k = 1; k < COUNT; ++k) u += sources[k].weight * load(sources[k].vector + i * C + c);
                    store<T>(&row.interpolated[i * C + c], u);
                }
                product += load(a.query + c) * u;
                square += u * u;
                if (has_previous) cross += load(previous + c) * u;
            }
            row.product[i] = sum_lanes<T>(product);
            row.square[i] = sum_lanes<T>(square);
            if (has_previous) row.cross[i - 1] = sum_lanes<T>(cross);
        }
    }

    // Eqs. 6 and 7 of a block: the factors of the logits, q.V and 1 / RMS(V), and the attention. The loops over whole
    // blocks are those that compilers vectorise.
    void attend(int64_t x, int64_t count) {
        for (int64_t n = 0; n < K; ++n) {
            const Row<T> &row = rows[n];
            for (int64_t i = 0; i < count; ++i) {
                const Taps<T> &taps = row.taps[x + i];
                const int64_t lower = taps.index[0], upper = taps.index[1];
                const T u = taps.weight[0], v = taps.weight[1];
                product[n * BLOCK + i] = row.product[lower];
                square[n * BLOCK + i] = row.square[lower];
                // not with a weight of zero, which makes NaN of infinity
                if (taps.count == 1) continue;
                product[n * BLOCK + i] = u * row.product[lower] + v * row.product[upper];
                square[n * BLOCK + i] =
                    u * u * row.square[lower] + 2 * u * v * row.cross[lower] + v * v * row.square[upper];
            }
        }
        for (int64_t i = 0; i < count; ++i) {
            product[K * BLOCK + i] = dot(a.query, &current[i * C], C);
            square[K * BLOCK + i] = dot(&current[i * C], &current[i * C], C);
        }
        T largest[BLOCK], sum[BLOCK];
        for (int64_t n = 0; n <= K; ++n)
            for (int64_t i = 0; i < BLOCK; ++i) {
                const int64_t k = n * BLOCK + i;
                // rounding may make it negative; NaN stays
                const T mean_square = (square[k] < 0 ? T(0) : square[k]) / T(a.channels);
                rstd[k] = 1 / std::sqrt(mean_square + T(a.eps));
                alpha[k] = product[k] * rstd[k];
                largest[i] = n > 0 && largest[i] > alpha[k] ? largest[i] : alpha[k];
                sum[i] = 0;
            }
        for (int64_t n = 0; n <= K; ++n)
            for (int64_t i = 0; i < BLOCK; ++i) {
                const T exponential = std::exp(alpha[n * BLOCK + i] - largest[i]);
                alpha[n * BLOCK + i] = exponential;
                sum[i] += exponential;
            }
        for (int64_t n = 0; n <= K; ++n)
            for (int64_t i = 0; i < BLOCK; ++i) alpha[n * BLOCK + i] /= sum[i];
    }

    // The weight of value n in the sum of Eq. 8: g alpha, plus 1 - g for x.
    T gated(int64_t n, int64_t i) const {
        const T weight = alpha[n * BLOCK + i];
        return a.gate ? *a.gate * weight + (n == K ? 1 - *a.gate : T(0)) : weight;
    }

    // Eq. 8 of pixel x, which is the i-th one of the block.
    void sum_values(int64_t x, int64_t i, T *out) {
        size_t count = 0;
        terms[count++] = {gated(K, i), &current[i * C]};
        for (int64_t n = 0; n < K; ++n) {
            const Taps<T> &taps = rows[n].taps[x];
            for (int t = 0; t < taps.count; ++t)
                terms[count++] = {gated(n, i) * taps.weight[t], rows[n].value + taps.index[t] * C};
        }
        // two vectors at a time, which stay in registers
        for (int64_t c = 0; c < C; c += 2 * LANES<T>) {
            Vector<T> first = {}, second = {};
            for (size_t t = 0; t < count; ++t) {
                first += terms[t].weight * load(terms[t].vector + c);
                second += terms[t].weight * load(terms[t].vector + c + LANES<T>);
            }
            store<T>(out + c, first);
            store<T>(out + c + LANES<T>, second);
        }
    }

    // The gradient of a plane of feature n in this slab.
    T *gradient_plane(int64_t n, int64_t plane) const {
        const Feature<T> &feature = a.features[n];
        const int64_t size = feature.length[1] * feature.length[2] * C;
        if (!feature.sums) return feature.gradient + (sample * feature.length[0] + plane) * size;
        return feature.sums + (sums_index * feature.planes + plane - feature.axes[0].lower[begin]) * size;
    }

    // The sums of the slab start at zero.
    void clear_sums() {
        std::fill_n(a.grad_query + sums_index * C, C, T(0));
        for (int64_t n = 0; n < K; ++n) {
            const Feature<T> &feature = a.features[n];
            if (feature.grad_bias) std::fill_n(feature.grad_bias + sums_index * C, C, T(0));
            if (!feature.gradient || !feature.is_interpolated()) continue;
            const int64_t first = feature.sums ? feature.axes[0].lower[begin] : begin;
            const int64_t planes = feature.sums ? feature.axes[0].upper[end - 1] + 1 - first : end - begin;
            std::fill_n(gradient_plane(n, first), planes * feature.length[1] * feature.length[2] * C, T(0));
        }
    }

    void clear_gradients(int64_t n) {
        if (a.features[n].grad_bias) rows[n].d_bias.assign(C, T(0));
        if (!a.features[n].is_interpolated()) return;
        const int64_t length = a.features[n].length[2];
        if (a.features[n].gradient) rows[n].gradient.assign(length * C, T(0));
        for (std::vector<T> *numbers : {&rows[n].d_product, &rows[n].d_square, &rows[n].d_cross})
            numbers->assign(length, T(0));
    }

    void backward_pixel(int64_t x, int64_t i, int64_t pixel) {
        const T *g = &grad[i * C];
        // Eq. 8
        T mean = 0;
        for (int64_t n = 0; n <= K; ++n) {
            T d = n == K ? dot(g, &current[i * C], C) : dot_value(g, n, x);
            if (a.grad_alpha) d += a.grad_alpha[(sample * (K + 1) + n) * pixels + pixel];
            d_alpha[n * BLOCK + i] = d;
            mean += alpha[n * BLOCK + i] * d;
        }
        d_gate += mean - d_alpha[K * BLOCK + i];
        for (int64_t n = 0; n <= K; ++n) {
            const int64_t k = n * BLOCK + i;
            // Eq. 7, then Eq. 6
            const T d_logit = alpha[k] * (d_alpha[k] - mean) * (a.gate ? *a.gate : T(1));
            const T d_product = d_logit * rstd[k];
            // twice the gradient of |V|^2, which is the factor of V in the gradient of V
            const T d_square = -d_product * product[k] * rstd[k] * rstd[k] / T(a.channels);
            if (n < K && a.features[n].is_interpolated()) {
                add_gradients(n, x, g, gated(n, i), d_product, d_square);
                continue;
            }
            const T *value = n == K ? &current[i * C] : rows[n].value + x * C;
            T *gradient = n == K ? &grad_current[i * C] : a.features[n].gradient;
            if (!gradient) {
                add(d_query.data(), d_product, value, C);
                continue;
            }
            if (n < K) gradient += (sample * pixels + pixel) * C;
            const T weight = gated(n, i);
            T *d_bias = n < K && a.features[n].grad_bias ? rows[n].d_bias.data() : nullptr;
            for (int64_t c = 0; c < C; c += LANES<T>) {
                const Vector<T> v = load(value + c);
                store<T>(&d_query[c], load(&d_query[c]) + d_product * v);
                const Vector<T> d_value = weight * load(g + c) + d_product * load(a.query + c) + d_square * v;
                store<T>(gradient + c, d_value);
                if (d_bias) store<T>(d_bias + c, load(d_bias + c) + d_value);
            }
        }
    }

    // Add the gradients of an interpolated feature at pixel x to those of its row.
    void add_gradients(int64_t n, int64_t x, const T *g, T weight, T d_product, T d_square) {
        Row<T> &row = rows[n];
        const Taps<T> &taps = row.taps[x];
        const int64_t lower = taps.index[0], upper = taps.index[1];
        const T u = taps.weight[0], v = taps.weight[1];
        row.d_product[lower] += u * d_product;
        row.d_product[upper] += v * d_product;
        row.d_square[lower] += u * u * d_square;
        row.d_square[upper] += v * v * d_square;
        row.d_cross[lower] += u * v * d_square;
        if (!a.features[n].gradient) return;
        T *first = &row.gradient[lower * C], *second = &row.gradient[upper * C];
        if (taps.count == 1) {
            add(first, weight, g, C);
            return;
        }
        for (int64_t c = 0; c < C; c += LANES<T>) {
            const Vector<T> weighted = weight * load(g + c);
            store<T>(first + c, load(first + c) + u * weighted);
            store<T>(second + c, load(second + c) + v * weighted);
        }
    }

    // The dot product of g with value n of pixel x.
    T dot_value(const T *g, int64_t n, int64_t x) const {
        const Taps<T> &taps = rows[n].taps[x];
        const T *lower = rows[n].value + taps.index[0] * C, *upper = rows[n].value + taps.index[1] * C;
        if (taps.count == 1) return dot(g, lower, C);
        Vector<T> first = {}, second = {};
        for (int64_t c = 0; c < C; c += LANES<T>) {
            const Vector<T> vector = load(g + c);
            first += vector * load(lower + c);
            second += vector * load(upper + c);
        }
        return sum_lanes<T>(taps.weight[0] * first + taps.weight[1] * second);
    }

    void write_current_gradients(int64_t pixel, int64_t count) {
        int64_t first = 0;
        for (int64_t p = 0; p < a.part_count; ++p) {
            const Part<T> &part = a.parts[p];
            if (part.gradient)
                to_channels_first(part.gradient + sample * part.channels * pixels + pixel, pixels, &grad_current[first],
                                  C, part.channels, count);
            first += part.channels;
        }
    }

    // Add the gradients of the numbers of a row to those of its vectors, and these to the rows that it was read from.
    void write_row_gradients(int64_t n, int64_t z, int64_t y) {
        const Feature<T> &feature = a.features[n];
        if (!feature.is_interpolated()) return;
        Row<T> &row = rows[n];
        const int64_t length = feature.length[2];
        for (int64_t i = 0; i < length; ++i) add(d_query.data(), row.d_product[i], row.value + i * C, C);
        if (!feature.gradient) return;
        for (int64_t i = 0; i < length; ++i) {
            const T *u = row.value + i * C;
            T *gradient = &row.gradient[i * C];
            for (int64_t c = 0; c < C; c += LANES<T>)
                store<T>(gradient + c, load(gradient + c) + row.d_product[i] * load(a.query + c) +
                                           row.d_square[i] * load(u + c));
            if (i + 1 < length && feature.axes[2].lower) {
                add(gradient, row.d_cross[i], u + C, C);
                add(gradient + C, row.d_cross[i], u, C);
            }
        }
        if (feature.grad_bias)
            for (int64_t i = 0; i < length; ++i) add(row.d_bias.data(), T(1), &row.gradient[i * C], C);
        for_each_line(n, z, y, [&](T weight, int64_t plane, int64_t line) {
            add(gradient_plane(n, plane) + line * length * C, weight, row.gradient.data(), length * C);
        });
    }
};

// One plane of one sample of a feature.
template <typename T>
class Plane {
  public:
    Plane(const Arguments<T> &arguments, const Feature<T> &feature, int64_t sample, int64_t plane)
        : a(arguments), feature(feature), sample(sample), plane(plane), C(a.padded_channels),
          size(feature.length[1] * feature.length[2]), pixels(feature.length[0] * size),
          first((sample * feature.length[0] + plane) * size * C), source(sample * a.channels * pixels + plane * size) {}

    void copy_source() {
        T *value = feature.value + first;
        for (int64_t i = 0; i < size; i += BLOCK)
            to_channels_last(value + i * C, C, feature.source + source + i, pixels, a.channels,
                             std::min(BLOCK, size - i));
        for (int64_t i = 0; i < size; ++i) std::fill(value + i * C + a.channels, value + (i + 1) * C, T(0));
    }

    void finish_gradient() {
        T *gradient = feature.gradient + first;
        if (feature.sums) sum_slabs(gradient);
        if (!feature.grad_source) return;
        for (int64_t i = 0; i < size; i += BLOCK)
            to_channels_first(feature.grad_source + source + i, pixels, gradient + i * C, C, a.channels,
                              std::min(BLOCK, size - i));
    }

  private:
    const Arguments<T> &a;
    const Feature<T> &feature;
    const int64_t sample, plane, C;
    const int64_t size, pixels;   // of the plane and of the feature
    const int64_t first, source;  // the first elements in channels-last tensors and in others

    void sum_slabs(T *gradient) {
        std::fill_n(gradient, size * C, T(0));
        for (int64_t slab = 0; slab < a.slabs; ++slab) {
            const int64_t begin = slab * a.planes_per_slab, end = std::min(a.size[0], begin + a.planes_per_slab);
            const int64_t first = feature.axes[0].lower[begin];
            if (plane < first || plane > feature.axes[0].upper[end - 1]) continue;
            const int64_t index = (sample * a.slabs + slab) * feature.planes + plane - first;
            add(gradient, T(1), feature.sums + index * size * C, size * C);
        }
    }
};

// Call a function for all planes of the features for which is_selected(feature). Returns whether it failed.
template <typename T, typename Select>
bool for_each_plane(const Arguments<T> &a, void (Plane<T>::*function)(), Select is_selected) {
    int64_t tasks = 0;
    for (int64_t n = 0; n < a.feature_count; ++n)
        if (is_selected(a.features[n])) tasks += a.samples * a.features[n].length[0];
    return run_tasks(tasks, a.threads, [&](int64_t task) {
        for (int64_t n = 0; n < a.feature_count; ++n) {
            const Feature<T> &feature = a.features[n];
            const int64_t planes = is_selected(feature) ? a.samples * feature.length[0] : 0;
            if (task < planes) {
                Plane<T> plane(a, feature, task / feature.length[0], task % feature.length[0]);
                (plane.*function)();
                return;
            }
            task -= planes;
        }
    });
}

template <typename T>
bool for_each_slab(const Arguments<T> &a, void (Slab<T>::*function)()) {
    return run_tasks(a.samples * a.slabs, a.threads, [&](int64_t task) {
        Slab<T> slab(a, task / a.slabs, task % a.slabs);
        (slab.*function)();
    });
}

template <typename T>
bool copy_sources(const Arguments<T> &a) {
    return for_each_plane(a, &Plane<T>::copy_source, [](const Feature<T> &feature) { return feature.source; });
}

// Both return whether there was not enough memory.

template <typename T>
bool forward(const Arguments<T> &a) {
    return copy_sources(a) || for_each_slab(a, &Slab<T>::forward);
}

template <typename T>
bool backward(const Arguments<T> &a) {
    const auto is_unfinished = [](const Feature<T> &feature) { return feature.sums || feature.grad_source; };
    return copy_sources(a) || for_each_slab(a, &Slab<T>::backward) ||
           for_each_plane(a, &Plane<T>::finish_gradient, is_unfinished);
}

}  // namespace

extern "C" {

void set_parallel(Parallel function) { parallel = function; }

int forward_float32(const Arguments<float> *arguments) { return forward(*arguments); }
int forward_float64(const Arguments<double> *arguments) { return forward(*arguments); }
int backward_float32(const Arguments<float> *arguments) { return backward(*arguments); }
int backward_float64(const Arguments<double> *arguments) { return backward(*arguments); }

// The sizes of the structures, for a test that `cpp_backend.py` declares the same.
int64_t size_of_arguments() { return sizeof(Arguments<float>); }
int64_t size_of_feature() { return sizeof(Feature<float>); }
int64_t size_of_part() { return sizeof(Part<float>); }

}
