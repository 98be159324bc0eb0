// Max pooling on a CPU with windows of equal lengths that do not overlap, and its gradient.

#include "cpp_threads.h"

namespace {

// The arguments. `cpp_pooling.py` declares the same structure.
template <typename T>
struct Pooling {
    const T *feature;       // (images, *size * window)
    T *pooled;              // (images, *size)
    const T *grad;          // as `pooled`
    T *grad_feature;        // as `feature`
    int64_t images;
    int64_t size[3];
    int64_t window[3];
    int64_t threads;
};

// The elements of a feature that a task pools.
constexpr int64_t ELEMENTS = 1 << 15;

// Call function(row of the pooled feature, first row of its windows in the feature) for all rows.
template <typename T, typename Function>
int for_each_row(const Pooling<T> &a, Function function) {
    const int64_t rows = a.images * a.size[0] * a.size[1];
    const int64_t elements = a.window[0] * a.window[1] * a.window[2] * a.size[2];
    const int64_t per_task = std::max<int64_t>(1, ELEMENTS / elements), tasks = (rows + per_task - 1) / per_task;
    return run_tasks(tasks, a.threads, [&](int64_t task) {
        for (int64_t row = task * per_task; row < std::min(rows, (task + 1) * per_task); ++row) {
            const int64_t y = row % a.size[1], plane = row / a.size[1];
            function(row, (plane * a.window[0] * a.size[1] + y) * a.window[1]);
        }
    });
}

// Call function(row) for the rows of the feature in the windows of one row of the pooled feature, in order.
template <typename T, typename Function>
void for_each_window_row(const Pooling<T> &a, int64_t first, Function function) {
    for (int64_t z = 0; z < a.window[0]; ++z)
        for (int64_t y = 0; y < a.window[1]; ++y) function(first + z * a.size[1] * a.window[1] + y);
}

// A window of a constant length along the last axis is faster; K is 0 for any length.
template <typename T, int K>
int forward(const Pooling<T> &a) {
    const int64_t k = K ? K : a.window[2], length = a.size[2];
    return for_each_row(a, [&](int64_t row, int64_t first) {
        T *out = a.pooled + row * length;
        for_each_window_row(a, first, [&](int64_t in_row) {
            const T *in = a.feature + in_row * length * k;
            for (int64_t x = 0; x < length; ++x) {
                T largest = in_row == first ? in[x * k] : out[x];
                // NaN stays
                for (int64_t i = 0; i < k; ++i)
                    largest = largest > in[x * k + i] || largest != largest ? largest : in[x * k + i];
                out[x] = largest;
            }
        });
    });
}

template <typename T, int K>
int backward(const Pooling<T> &a) {
    const int64_t k = K ? K : a.window[2], length = a.size[2];
    return for_each_row(a, [&](int64_t row, int64_t first) {
        const T *pooled = a.pooled + row * length, *grad = a.grad + row * length;
        std::vector<T> remaining(grad, grad + length);  // zero where the maximum has already been found
        for_each_window_row(a, first, [&](int64_t in_row) {
            const T *in = a.feature + in_row * length * k;
            T *out = a.grad_feature + in_row * length * k;
            for (int64_t x = 0; x < length; ++x)
                for (int64_t i = 0; i < k; ++i) {
                    const bool found = in[x * k + i] == pooled[x];
                    out[x * k + i] = found ? remaining[x] : T(0);
                    remaining[x] = found ? T(0) : remaining[x];
                }
        });
    });
}

}  // namespace

extern "C" {

int max_pool_float32(const Pooling<float> *a) { return a->window[2] == 2 ? forward<float, 2>(*a) : forward<float, 0>(*a); }
int max_pool_float64(const Pooling<double> *a) { return forward<double, 0>(*a); }
int max_pool_backward_float32(const Pooling<float> *a) {
    return a->window[2] == 2 ? backward<float, 2>(*a) : backward<float, 0>(*a);
}
int max_pool_backward_float64(const Pooling<double> *a) { return backward<double, 0>(*a); }

// The size of the structure, for a test that `cpp_pooling.py` declares the same.
int64_t size_of_pooling() { return sizeof(Pooling<float>); }

}
