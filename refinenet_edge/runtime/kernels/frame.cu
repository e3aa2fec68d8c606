// Frame -> network input on the GPU in one pass: bilinear resize (half-pixel centres), normalise, layout.
//
// Every value is interpolated as in pixel.h, rounded to a byte (half to even) and looked up, so without a resize the
// result is runtime/frame.py's to the bit. Compiled for one kind of input: ELEMENT is unsigned short for float16,
// unsigned for float32; CHANNELS is 3 for planes (NCHW), else the padded channels of NHWC, the padding zero; BGR is 1 where the
// network's channels are in the frame's order, 0 for RGB.
#include "pixel.h"

// The BGR bytes of the pixels `x` and, if `both`, x + 1 of a row, lowest byte first. Read are aligned words of 8 bytes,
// one or two; a word that no pixel lies in is not read, it may be nobody's memory.
__device__ unsigned long long pixels(const unsigned char* row, int x, bool both) {
    const unsigned char* first = row + 3 * x;
    const int offset = int(reinterpret_cast<size_t>(first) & 7);
    const auto* words = reinterpret_cast<const unsigned long long*>(first - offset);
    unsigned long long bytes = words[0] >> 8 * offset;
    if (offset + (both ? 6 : 3) > 8) bytes |= words[1] << (64 - 8 * offset);
    return bytes;
}

// Channel 0, 1 or 2 (B, G, R) between the two pixels.
__device__ float between(unsigned long long bytes, int channel, float t) {
    return lerp<float>(unsigned(bytes >> 8 * channel) & 255, unsigned(bytes >> 8 * (channel + 3)) & 255, t);
}

// The normalised values between the pixels around (column + tx, row + ty), in the network's order.
__device__ void look(const unsigned char* frame, long long pitch, int row, float ty, int column, float tx,
                     const ELEMENT* table, ELEMENT (&values)[3]) {
    const unsigned char* first = frame + pitch * row;
    const unsigned long long upper = pixels(first, column, tx > 0);
    const unsigned long long lower = ty > 0 ? pixels(first + pitch, column, tx > 0) : upper;
    for (int i = 0; i < 3; ++i) {
        const int channel = BGR ? i : 2 - i;
        const float value = lerp(between(upper, channel, tx), between(lower, channel, tx), ty);
        values[i] = table[256 * i + __float2int_rn(value)];
    }
}

// `values` become the pixel of that number.
__device__ void put(const ELEMENT (&values)[3], long long pixel, [[maybe_unused]] long long plane, ELEMENT* result) {
#if CHANNELS == 3
    for (int i = 0; i < 3; ++i) result[i * plane + pixel] = values[i];
#else
    struct alignas(16) Pixel {  // one or two 16-byte stores
        ELEMENT channels[CHANNELS];
    };
    static_assert(sizeof(Pixel) == CHANNELS * sizeof(ELEMENT), "CHANNELS is 3 or a multiple of 8");
    Pixel padded = {};
    for (int i = 0; i < 3; ++i) padded.channels[i] = values[i];
    reinterpret_cast<Pixel*>(result)[pixel] = padded;
#endif
}

// frame: height x width x 3, BGR, a row `pitch` bytes after the other; table: 3 x 256, in the network's order, the normalised bytes;
// result: where the frame's first pixel goes, columns x gridDim.y of rows `stride` pixels apart in planes of `plane`.
// What is around it is not written. Positions are as in head.cu: pixel j lies between the samples first[j] and the next,
// at fraction t[j]. Where t is 0 the next counts for nothing and is not read; at the last one it is.
extern "C" __global__ void prepare(const unsigned char* frame, long long pitch, const int* first_row,
                                   const float* row_t, const int* first_column, const float* column_t,
                                   const ELEMENT* table, int columns, int stride, int plane, ELEMENT* result) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= columns) return;
    ELEMENT values[3];
    look(frame, pitch, first_row[y], row_t[y], first_column[x], column_t[x], table, values);
    put(values, (long long)y * stride + x, plane, result);
}

// One of several frames, as `prepare` has it: it fills rows x columns of the network's input from (top, left) on.
struct Frame {
    const unsigned char* pixels;
    long long pitch;
    const int* first_row;
    const float* row_t;
    const int* first_column;
    const float* column_t;
    int top, left, rows, columns;
};

// Frame blockIdx.z into the network's input of that number, gridDim.y x columns pixels each; around a frame is zero.
extern "C" __global__ void prepare_together(const Frame* frames, const ELEMENT* table, int columns, ELEMENT* result) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= columns) return;
    const Frame frame = frames[blockIdx.z];
    const int row = y - frame.top, column = x - frame.left;
    ELEMENT values[3] = {};
    if (row >= 0 && row < frame.rows && column >= 0 && column < frame.columns)
        look(frame.pixels, frame.pitch, frame.first_row[row], frame.row_t[row], frame.first_column[column],
             frame.column_t[column], table, values);
    const long long plane = (long long)gridDim.y * columns;
    put(values, (long long)y * columns + x, plane, result + blockIdx.z * CHANNELS * plane);
}
