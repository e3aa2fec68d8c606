// How often each magnitude came, for calibration/histogram.py: in two passes over a tensor what numpy does in ten.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

constexpr int LANES = 16;     // values that are looked at side by side, so that it is vectorised
constexpr int TABLES = 4;     // equal values that follow each other, as zeros do, do not wait for one counter
constexpr int BUFFERED = 1024;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// Of the finite values the lowest and the highest; how many are zero, how many not finite.
struct Extent {
    float low = INFINITE, high = -INFINITE;
    Py_ssize_t zeros = 0, not_finite = 0;
};

Extent extent_of(const float* values, Py_ssize_t count) {
    Extent all;
    float low[LANES], high[LANES];
    int32_t zeros[LANES] = {}, not_finite[LANES] = {};
    std::fill_n(low, LANES, INFINITE);
    std::fill_n(high, LANES, -INFINITE);
    const auto look = [&](float value, int lane) {
        const bool finite = std::fabs(value) < INFINITE;  // not so of NaN
        const float least = finite ? value : INFINITE, most = finite ? value : -INFINITE;
        low[lane] = least < low[lane] ? least : low[lane];
        high[lane] = most > high[lane] ? most : high[lane];
        zeros[lane] += value == 0;
        not_finite[lane] += !finite;
    };
    Py_ssize_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) look(values[i + lane], lane);
    for (; i < count; ++i) look(values[i], 0);
    for (int lane = 0; lane < LANES; ++lane) {
        all.low = std::min(all.low, low[lane]);
        all.high = std::max(all.high, high[lane]);
        all.zeros += zeros[lane];
        all.not_finite += not_finite[lane];
    }
    return all;
}

// Adds each value to counts[|value| * scale], those beyond the bins to none.
void count_each(const float* values, Py_ssize_t count, float scale, int64_t* counts, Py_ssize_t bins) {
    std::vector<int64_t> tables(TABLES * (bins + 1));
    int32_t places[BUFFERED];
    for (Py_ssize_t begin = 0; begin < count; begin += BUFFERED) {
        const int number = int(std::min<Py_ssize_t>(BUFFERED, count - begin));
        for (int i = 0; i < number; ++i) {
            const float place = std::fabs(values[begin + i]) * scale;
            places[i] = place < float(bins) ? int32_t(place) : int32_t(bins);
        }
        for (int i = 0; i < number; ++i) ++tables[(i % TABLES) * (bins + 1) + places[i]];
    }
    for (int table = 0; table < TABLES; ++table)
        for (Py_ssize_t bin = 0; bin < bins; ++bin) counts[bin] += tables[table * (bins + 1) + bin];
}

// --- Python

class Buffers {
public:
    Py_buffer values{}, counts{};
    ~Buffers() {
        for (Py_buffer* buffer : {&values, &counts})
            if (buffer->obj) PyBuffer_Release(buffer);
    }
    const float* floats() const { return static_cast<const float*>(values.buf); }
    Py_ssize_t number() const { return values.len / Py_ssize_t(sizeof(float)); }
};

PyObject* extent(PyObject*, PyObject* args) {
    Buffers b;
    if (!PyArg_ParseTuple(args, "y*", &b.values)) return nullptr;
    Extent found;
    Py_BEGIN_ALLOW_THREADS
    found = extent_of(b.floats(), b.number());
    Py_END_ALLOW_THREADS
    return Py_BuildValue("ddnn", double(found.low), double(found.high), found.zeros, found.not_finite);
}

PyObject* count(PyObject*, PyObject* args) {
    Buffers b;
    float scale;
    if (!PyArg_ParseTuple(args, "y*fw*", &b.values, &scale, &b.counts)) return nullptr;
    bool complete = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        count_each(b.floats(), b.number(), scale, static_cast<int64_t*>(b.counts.buf),
                   b.counts.len / Py_ssize_t(sizeof(int64_t)));
    } catch (const std::bad_alloc&) {
        complete = false;
    }
    Py_END_ALLOW_THREADS
    if (!complete) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"extent", extent, METH_VARARGS, "extent(values) -> lowest, highest (of what is finite), zeros, not finite"},
    {"count", count, METH_VARARGS, "count(values, scale, counts): add each of values to counts[int(|value| * scale)]"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_histogram", "See histogram.cpp.", -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__histogram() { return PyModule_Create(&module); }
