// Logits -> labels on the CPU: the corner pass, runs of agreeing cells filled, the pixels of the others evaluated; all
// pixels where their confidence is asked for.
//
// A row of cells lies between two source rows. Its columns that need evaluating are collected, whatever cells they are
// in, so that every loop below runs over columns and is vectorised: in groups of a cell's columns, which share their
// corners, and LANES at a time.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "pixel.h"

// one source, compiled for each instruction set and chosen when the module is loaded; the results are the same
#if defined(__x86_64__) && defined(__GLIBC__)
#define EACH_INSTRUCTION_SET __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_INSTRUCTION_SET
#endif

namespace {

constexpr int GROUP = 4, LANES = 64;
constexpr int CELL_ROWS = 8;  // a thread's portion

typedef float Floats __attribute__((vector_size(4 * GROUP), aligned(4), may_alias));

// The output pixels [starts[i], starts[i + 1]) lie between samples i and i + 1, pixel j at fraction t[j].
struct Axis {
    const int32_t* starts;
    const float* t;
    int cells, pixels;

    bool valid() const {
        return starts[0] == 0 && starts[cells] == pixels && std::is_sorted(starts, starts + cells + 1);
    }
};

struct Job {
    const float* logits;  // classes x rows.cells x columns.cells
    int classes;
    Axis rows, columns;
    uint8_t* labels;      // rows.pixels x columns.pixels
    uint8_t* confidence;  // as many, or null

    size_t plane() const { return size_t(rows.cells) * columns.cells; }
};

EACH_INSTRUCTION_SET
bool corners(const float* row, int width, size_t plane, int classes, float* value, float* below, int32_t* label) {
    std::fill_n(value, width, Corner().value);
    std::fill_n(below, width, Corner().below);
    std::fill_n(label, width, Corner().label);
    int32_t finite = 1;
    for (int c = 0; c < classes; ++c, row += plane)
        for (int x = 0; x < width; ++x) {
            Corner corner{value[x], below[x], label[x]};
            corner.meet(row[x], c);
            value[x] = corner.value, below[x] = corner.below, label[x] = corner.label;
            finite &= magnitude(row[x]) < -MINUS_INFINITY;
        }
    for (int x = 0; x < width; ++x) label[x] = sure_label(Corner{value[x], below[x], label[x]});
    return finite;
}

// Up to GROUP columns of one cell. A shorter one repeats its last.
struct Group {
    int32_t left, right;
    int32_t column[GROUP];
    float t[GROUP];
};

// Along the rows. Not cloned: the groups are as wide as the narrowest vectors.
void widen(const float* row, size_t plane, int classes, const Group* groups, float* wide) {
    for (int c = 0; c < classes; ++c, row += plane, wide += LANES)
        for (int g = 0; g < LANES / GROUP; ++g)
            reinterpret_cast<Floats*>(wide)[g] =
                lerp(row[groups[g].left], row[groups[g].right], *reinterpret_cast<const Floats*>(groups[g].t));
}

// Between the rows, and which class wins.
EACH_INSTRUCTION_SET
void winners(const float* top, const float* bottom, int classes, float t, int32_t* label, float* best) {
    float value[LANES];  // not `best` itself, which could be one of the others for all the compiler knows
    std::fill_n(value, LANES, Winner().value);
    std::fill_n(label, LANES, Winner().label);
    for (int c = 0; c < classes; ++c, top += LANES, bottom += LANES)
        for (int i = 0; i < LANES; ++i) {
            Winner winner{value[i], label[i]};
            winner.meet(lerp(top[i], bottom[i], t), c);
            value[i] = winner.value, label[i] = winner.label;
        }
    std::copy_n(value, LANES, best);
}

// How sure the winners are, whose logits are `value`.
EACH_INSTRUCTION_SET
void confidences(const float* top, const float* bottom, int classes, float t, const float* value, uint8_t* confidence) {
    float sum[LANES] = {};
    for (int c = 0; c < classes; ++c, top += LANES, bottom += LANES)
        for (int i = 0; i < LANES; ++i) sum[i] = SUM(sum[i], exponential(SUM(lerp(top[i], bottom[i], t), -value[i])));
    for (int i = 0; i < LANES; ++i) confidence[i] = confidence_of(sum[i]);
}

// What a thread works in.
class Worker {
public:
    explicit Worker(const Job& job)
        : job(job),
          codes(size_t(CELL_ROWS + 1) * job.columns.cells),
          value(job.columns.cells),
          below(job.columns.cells),
          top(size_t(job.classes) * LANES),
          bottom(size_t(job.classes) * LANES) {}

    // The cell rows [begin, end); whether their logits are finite.
    bool run(int begin, int end) {
        const int width = job.columns.cells;
        bool finite = true;
        for (int y = begin; y < std::min(end + 1, job.rows.cells); ++y)
            finite &= corners(job.logits + size_t(y) * width, width, job.plane(), job.classes, value.data(),
                              below.data(), &codes[size_t(y - begin) * width]);
        for (int y = begin; y < end; ++y)
            if (job.rows.starts[y] < job.rows.starts[y + 1]) cell_row(y, begin);
        return finite;
    }

private:
    void cell_row(int y, int begin) {
        const int width = job.columns.cells, pixels = job.columns.pixels, next = std::min(y + 1, job.rows.cells - 1);
        const int first = job.rows.starts[y], last = job.rows.starts[y + 1];
        const int32_t* upper = &codes[size_t(y - begin) * width];
        const int32_t* lower = &codes[size_t(next - begin) * width];
        uint8_t* line = job.labels + size_t(first) * pixels;
        groups.clear();
        for (int x = 0; x < width; ++x) {
            const int x1 = std::min(x + 1, width - 1), from = job.columns.starts[x], to = job.columns.starts[x + 1];
            if (!job.confidence && agree(upper[x], upper[x1], lower[x], lower[x1]))
                for (int i = from; i < to; ++i) line[i] = uint8_t(upper[x]);
            else
                for (int i = from; i < to; i += GROUP) add_group(x, x1, i, to - 1);
        }
        for (int row = first + 1; row < last; ++row) std::memcpy(line + size_t(row - first) * pixels, line, pixels);
        while (groups.size() % (LANES / GROUP)) groups.push_back(groups.back());

        const float* rows[] = {job.logits + size_t(y) * width, job.logits + size_t(next) * width};
        for (size_t at = 0; at < groups.size(); at += LANES / GROUP) {
            widen(rows[0], job.plane(), job.classes, &groups[at], top.data());
            widen(rows[1], job.plane(), job.classes, &groups[at], bottom.data());
            for (int row = first; row < last; ++row) {
                int32_t label[LANES];
                float value[LANES];
                winners(top.data(), bottom.data(), job.classes, job.rows.t[row], label, value);
                uint8_t* out = job.labels + size_t(row) * pixels;
                for (int i = 0; i < LANES; ++i) out[groups[at + i / GROUP].column[i % GROUP]] = uint8_t(label[i]);
                if (!job.confidence) continue;
                uint8_t confidence[LANES];
                confidences(top.data(), bottom.data(), job.classes, job.rows.t[row], value, confidence);
                out = job.confidence + size_t(row) * pixels;
                for (int i = 0; i < LANES; ++i) out[groups[at + i / GROUP].column[i % GROUP]] = confidence[i];
            }
        }
    }

    void add_group(int left, int right, int column, int last) {
        Group group{left, right, {}, {}};
        for (int i = 0; i < GROUP; ++i) {
            group.column[i] = std::min(column + i, last);
            group.t[i] = job.columns.t[group.column[i]];
        }
        groups.push_back(group);
    }

    const Job& job;
    std::vector<int32_t> codes;
    std::vector<float> value, below;
    std::vector<Group> groups;
    std::vector<float> top, bottom;
};

bool label_all(const Job& job, int threads) {
    std::atomic<int> next{0};
    std::atomic<bool> finite{true}, complete{true};
    const auto work = [&] {
        try {
            Worker worker(job);
            for (int begin; (begin = next.fetch_add(CELL_ROWS)) < job.rows.cells;)
                if (!worker.run(begin, std::min(begin + CELL_ROWS, job.rows.cells))) finite = false;
        } catch (const std::bad_alloc&) {
            complete = false;
        }
    };
    threads = std::min(threads, job.rows.cells / CELL_ROWS);
    std::vector<std::thread> helpers;
    helpers.reserve(std::max(threads, 0));
    for (int i = 1; i < threads; ++i) try {
            helpers.emplace_back(work);
        } catch (const std::system_error&) {
            break;  // no thread to be had: the others do its part
        }
    work();
    for (auto& helper : helpers) helper.join();
    if (!complete) throw std::bad_alloc();
    return finite;
}

// --- Python

class Buffers {
public:
    Py_buffer logits{}, row_starts{}, row_t{}, column_starts{}, column_t{}, labels{}, confidence{};
    ~Buffers() {
        for (Py_buffer* buffer : {&logits, &row_starts, &row_t, &column_starts, &column_t, &labels, &confidence})
            if (buffer->obj) PyBuffer_Release(buffer);
    }
};

// The sizes of the buffers say everything but the number of classes. Sets an exception and returns false if they do not
// fit together.
bool read_job(const Buffers& b, int classes, Job& job) {
    const auto axis = [](const Py_buffer& starts, const Py_buffer& t) {
        return Axis{static_cast<const int32_t*>(starts.buf), static_cast<const float*>(t.buf),
                    int(starts.len / 4) - 1, int(t.len / 4)};
    };
    job = {static_cast<const float*>(b.logits.buf), classes, axis(b.row_starts, b.row_t),
           axis(b.column_starts, b.column_t), static_cast<uint8_t*>(b.labels.buf),
           static_cast<uint8_t*>(b.confidence.buf)};
    if (classes >= 1 && classes <= 256 && job.rows.cells >= 1 && job.columns.cells >= 1 && job.rows.valid() &&
        job.columns.valid() && size_t(b.logits.len) == job.plane() * classes * sizeof(float) &&
        size_t(b.labels.len) == size_t(job.rows.pixels) * job.columns.pixels &&
        (!b.confidence.obj || b.confidence.len == b.labels.len))
        return true;
    PyErr_SetString(PyExc_ValueError, "logits, axes and labels do not fit together");
    return false;
}

PyObject* fill(PyObject*, PyObject* args) {
    Buffers b;
    Job job;
    int classes, threads;
    if (!PyArg_ParseTuple(args, "y*iy*y*y*y*w*i|w*", &b.logits, &classes, &b.row_starts, &b.row_t, &b.column_starts,
                          &b.column_t, &b.labels, &threads, &b.confidence) ||
        !read_job(b, classes, job))
        return nullptr;
    bool finite = false, complete = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        finite = label_all(job, threads);
    } catch (const std::bad_alloc&) {
        complete = false;
    }
    Py_END_ALLOW_THREADS
    return complete ? PyBool_FromLong(finite) : PyErr_NoMemory();
}

PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS,
     "fill(logits, classes, row_starts, row_t, column_starts, column_t, labels, threads[, confidence]) -> are the logits "
     "finite?"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_head", "See head.cpp.", -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__head() { return PyModule_Create(&module); }
