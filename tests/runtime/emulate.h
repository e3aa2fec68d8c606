// What nvcc gives a kernel, for g++: the kernels run on the CPU, a thread after the other. They share nothing.
#include <cmath>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __launch_bounds__(threads, blocks)

struct Place {
    int x, y, z;
};
static Place blockIdx, threadIdx, blockDim, gridDim;

inline int min(int a, int b) { return a < b ? a : b; }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent     ? std::ldexp(float(1024 + fraction), exponent - 25)
                                 : std::ldexp(float(fraction), -24);
    return bits & 0x8000 ? -value : value;
}

template <class... Args, size_t... I>
void run(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
                for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(*static_cast<Args*>(args[I])...);
}

// size or alignment of a kernel's parameter; 0 after the last
template <class... Args>
int size_of(void (*)(Args...), size_t i) {
    const int sizes[] = {int(sizeof(Args))..., 0};
    return i < sizeof...(Args) ? sizes[i] : 0;
}

template <class... Args>
int align_of(void (*)(Args...), size_t i) {
    const int alignments[] = {int(alignof(Args))..., 0};
    return i < sizeof...(Args) ? alignments[i] : 0;
}

#define KERNEL(name)                                                              \
    extern "C" int size_##name(int i) { return size_of(name, i); }                 \
    extern "C" int align_##name(int i) { return align_of(name, i); }               \
    extern "C" void run_##name(const int* grid, int threads, void** args) {        \
        gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads, 1, 1};         \
        start(name, args);                                                        \
    }

template <class... Args>
void start(void (*kernel)(Args...), void** args) {
    run(kernel, args, std::index_sequence_for<Args...>());
}
