// Logits -> labels on the GPU, as head.cpp does it. Compiled for one kind of logits: LOGIT is Float, Half or BFloat16.
//
// Logits may lie in any order (NCHW, NHWC, NHWC8): strides are in elements. `corners` runs first, a thread per source
// pixel; then `labels`, a thread per column of the frame (x) and row of cells (y). `confident_labels` needs every pixel's
// logits, so it runs alone.
#include "pixel.h"

#ifdef __CUDACC__  // the tests, which run these kernels on the CPU, have their own
__device__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#endif

struct Float {
    float value;
    __device__ operator float() const { return value; }
};

struct Half {
    unsigned short bits;
    __device__ operator float() const { return half_to_float(bits); }
};

struct BFloat16 {
    unsigned short bits;
    __device__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

struct Logits {
    const LOGIT* data;
    int classes, height, width;
    long long class_stride, row_stride, column_stride, frame_stride;

    // Those of one frame of several.
    __device__ Logits of(int frame) const {
        Logits one = *this;
        one.data += frame * frame_stride;
        return one;
    }

    __device__ long long pixels() const { return (long long)height * width; }
    __device__ const LOGIT* at(int y, int x) const { return data + y * row_stride + x * column_stride; }
};

// of frame blockIdx.z
extern "C" __global__ void corners(Logits all, short* codes) {
    const Logits logits = all.of(blockIdx.z);
    codes += blockIdx.z * logits.pixels();
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= logits.width) return;
    Corner corner;
    const LOGIT* logit = logits.at(y, x);
    for (int c = 0; c < logits.classes; ++c, logit += logits.class_stride) corner.meet(*logit, c);
    codes[y * logits.width + x] = short(sure_label(corner));
}

// The output pixels of row_starts[i] to row_starts[i + 1] lie between the source rows i and i + 1, row j at fraction
// row_t[j]; column j lies between the source columns first_column[j] and the next, at column_t[j].
struct Grid {
    const int* row_starts;
    const float* row_t;
    const int* first_column;
    const float* column_t;
    int width;
};

constexpr int ROWS = 4;  // of the frame at a time: they share what is interpolated along the source rows

// take(i, logit, label) for every class and the rows at `ty`, between the source rows y0 and y1 and columns x0 and x1. A
// function, because NVRTC 12.6, JetPack 6's, takes no lambda with `auto` parameters there.
template <class Take>
__device__ void each_class(const Logits& logits, int y0, int y1, int x0, int x1, float tx, const float (&ty)[ROWS],
                           const Take& take) {
    const LOGIT *a = logits.at(y0, x0), *b = logits.at(y0, x1), *c = logits.at(y1, x0), *d = logits.at(y1, x1);
    for (int label = 0; label < logits.classes; ++label) {
        const float top = lerp<float>(*a, *b, tx), bottom = lerp<float>(*c, *d, tx);
        for (int i = 0; i < ROWS; ++i) take(i, lerp(top, bottom, ty[i]), label);
        a += logits.class_stride, b += logits.class_stride, c += logits.class_stride, d += logits.class_stride;
    }
}

// put(row, column, label, sum) for every pixel of this thread; sum: of e^(logit - winner's), only where CONFIDENT.
template <bool CONFIDENT, class Put>
__device__ void upsample_argmax(const Logits& logits, const short* codes, const Grid& grid, const Put& put) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y0 = blockIdx.y;
    if (x >= grid.width) return;
    const int y1 = min(y0 + 1, logits.height - 1), x0 = grid.first_column[x], x1 = min(x0 + 1, logits.width - 1);
    const int first = grid.row_starts[y0], last = grid.row_starts[y0 + 1];
    if (!CONFIDENT) {
        const short *upper = codes + y0 * logits.width, *lower = codes + y1 * logits.width;
        if (agree(upper[x0], upper[x1], lower[x0], lower[x1])) {
            for (int row = first; row < last; ++row) put(row, x, upper[x0], 0.0f);
            return;
        }
    }
    const float tx = grid.column_t[x];
    for (int begin = first; begin < last; begin += ROWS) {
        Winner winners[ROWS];
        float ty[ROWS];
        for (int i = 0; i < ROWS; ++i) ty[i] = grid.row_t[min(begin + i, last - 1)];
        each_class(logits, y0, y1, x0, x1, tx, ty,
                   [&](int i, float logit, int label) { winners[i].meet(logit, label); });
        float sums[ROWS] = {};
        if (CONFIDENT)
            each_class(logits, y0, y1, x0, x1, tx, ty, [&](int i, float logit, int) {
                sums[i] = SUM(sums[i], exponential(SUM(logit, -winners[i].value)));
            });
        for (int i = 0; i < ROWS; ++i)
            if (begin + i < last) put(begin + i, x, winners[i].label, sums[i]);
    }
}

// result: the frame's height x width.
extern "C" __global__ void labels(Logits logits, const short* codes, Grid grid, unsigned char* result) {
    upsample_argmax<false>(logits, codes, grid, [&](int row, int column, int label, float) {
        result[(long long)row * grid.width + column] = (unsigned char)label;
    });
}

// result, confidence: the frame's height x width.
extern "C" __global__ void confident_labels(Logits logits, Grid grid, unsigned char* result, unsigned char* confidence) {
    upsample_argmax<true>(logits, nullptr, grid, [&](int row, int column, int label, float sum) {
        const long long pixel = (long long)row * grid.width + column;
        result[pixel] = (unsigned char)label;
        confidence[pixel] = confidence_of(sum);
    });
}

// Where the labels of one of several frames go; confidence: null where it is not asked for.
struct Target {
    Grid grid;
    unsigned char *labels, *confidence;
};

// Of frame blockIdx.z of several, each of its own size. Blocks of 128 threads, of which 6 are to fit: the compiler would
// keep all of a target in registers.
extern "C" __global__ void __launch_bounds__(128, 6)
    labels_together(Logits logits, const short* codes, const Target* targets) {
    const Target target = targets[blockIdx.z];
    upsample_argmax<false>(logits.of(blockIdx.z), codes + blockIdx.z * logits.pixels(), target.grid,
                           [&](int row, int column, int label, float) {
                               target.labels[(long long)row * target.grid.width + column] = (unsigned char)label;
                           });
}

extern "C" __global__ void confident_labels_together(Logits logits, const Target* targets) {
    const Target target = targets[blockIdx.z];
    upsample_argmax<true>(logits.of(blockIdx.z), nullptr, target.grid, [&](int row, int column, int label, float sum) {
        const long long pixel = (long long)row * target.grid.width + column;
        target.labels[pixel] = (unsigned char)label;
        target.confidence[pixel] = confidence_of(sum);
    });
}
