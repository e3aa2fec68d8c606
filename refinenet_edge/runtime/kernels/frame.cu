// Frame -> network input on the GPU in one pass: bilinear resize (half-pixel centres), normalise, layout.
//
// Every value is interpolated as in pixel.h, rounded to a byte (half to even) and looked up, so without a resize the
// result is runtime/frame.py's to the bit. Compiled for one kind of input: ELEMENT is unsigned short for float16,
// unsigned for float32; CHANNELS is 3 for planes (NCHW), else the padded channels of NHWC, the padding zero.
#include "pixel.h"

// frame: height x width x 3, BGR, a row `pitch` bytes after the other; table: 3 x 256, RGB, the normalised bytes; result: out_height x out_width. Positions
// are as in head.cu: pixel j lies between the samples first[j] and the next, at fraction t[j].
extern "C" __global__ void prepare(const unsigned char* frame, int height, int width, long long pitch,
                                   const int* first_row, const float* row_t, const int* first_column, const float* column_t,
                                   const ELEMENT* table, int out_width, ELEMENT* result) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= out_width) return;
    const int x0 = first_column[x], x1 = min(x0 + 1, width - 1);
    const unsigned char* upper = frame + pitch * first_row[y];
    const unsigned char* lower = frame + pitch * min(first_row[y] + 1, height - 1);
    const float tx = column_t[x], ty = row_t[y];
    ELEMENT values[3];
    for (int i = 0; i < 3; ++i) {
        const int channel = 2 - i;
        const float top = lerp<float>(upper[3 * x0 + channel], upper[3 * x1 + channel], tx);
        const float bottom = lerp<float>(lower[3 * x0 + channel], lower[3 * x1 + channel], tx);
        values[i] = table[256 * i + __float2int_rn(lerp(top, bottom, ty))];
    }
    const long long pixel = (long long)y * out_width + x;
#if CHANNELS == 3
    for (int i = 0; i < 3; ++i) result[i * (long long)gridDim.y * out_width + pixel] = values[i];
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
