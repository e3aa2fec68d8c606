// The head's arithmetic, once for the host and for CUDA. runtime/head.py says what it is and why it is exact.
#pragma once

#ifdef __CUDACC__
#define BOTH __host__ __device__ __forceinline__
#define PRODUCT(a, b) __fmul_rn(a, b)  // never contracted into a fused multiply-add, which rounds once less
#define SUM(a, b) __fadd_rn(a, b)
#define QUOTIENT(a, b) __fdiv_rn(a, b)
#define MINUS_INFINITY __int_as_float(0xff800000)
#else
#include <cstring>
#define BOTH inline __attribute__((always_inline))
#define PRODUCT(a, b) ((a) * (b))  // compiled with -ffp-contract=off
#define SUM(a, b) ((a) + (b))
#define QUOTIENT(a, b) ((a) / (b))
#define MINUS_INFINITY (-__builtin_huge_valf())
#endif

// (1 - t)a + tb, each operation rounded. t is a multiple of 2^-24, so 1 - t is exact. On the host also a vector of them.
template <class Fraction>
BOTH Fraction lerp(float a, float b, Fraction t) {
    return SUM(PRODUCT(1.0f - t, a), PRODUCT(t, b));
}

// The classes met so far at a pixel, in ascending order: a later one wins only by being larger, a NaN never.
struct Winner {
    float value = MINUS_INFINITY;
    int label = 0;

    BOTH void meet(float next, int next_label) {
        const bool wins = next > value;
        label = wins ? next_label : label;
        value = wins ? next : value;
    }
};

// The same at a corner of a cell, with the largest value of a class before the winner.
struct Corner {
    float value = MINUS_INFINITY, below = MINUS_INFINITY;
    int label = 0;

    BOTH void meet(float next, int next_label) {
        const bool wins = next > value;
        below = wins ? value : below;
        label = wins ? next_label : label;
        value = wins ? next : value;
    }
};

BOTH unsigned bits_of(float x) {
#ifdef __CUDACC__
    return __float_as_uint(x);
#else
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
}

BOTH float float_of(unsigned bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
#endif
}

constexpr float TO_WHOLE = 0x1.8p23f;  // added to a small number: it is rounded, half to even, into the lowest bits

// e^x, from -24 to 0; what is smaller, or a NaN, is taken for -24. e^0 is 1.
BOTH float exponential(float x) {
    x = x > -24.0f ? x : -24.0f;
    const float shifted = SUM(PRODUCT(x, 1.44269504f), TO_WHOLE);  // e^x = 2^n e^r
    const float r = SUM(x, PRODUCT(SUM(shifted, -TO_WHOLE), -0.693147181f));
    float power = 1.0f / 24;
    power = SUM(PRODUCT(power, r), 1.0f / 6);
    power = SUM(PRODUCT(power, r), 0.5f);
    power = SUM(PRODUCT(power, r), 1.0f);
    power = SUM(PRODUCT(power, r), 1.0f);
    return PRODUCT(power, float_of((bits_of(shifted) << 23) + 0x3f800000u));  // 2^n: the other bits leave on the left
}

// The winner's softmax in 255ths, of the sum of e^(logit - winner's) over the classes.
BOTH unsigned char confidence_of(float sum) {
    const float share = QUOTIENT(255.0f, sum);
    return (unsigned char)bits_of(SUM(share < 255.0f ? share : 255.0f, TO_WHOLE));
}

constexpr int UNSURE = -1;

BOTH float magnitude(float x) { return x < 0 ? -x : x; }

// The winner's label where four corners that agree on it decide their whole cell, UNSURE where rounding inside the cell
// could let another class win.
BOTH int sure_label(const Corner& corner) {
    const float value = magnitude(corner.value), below = magnitude(corner.below);
    const bool finite = value < -MINUS_INFINITY;
    const bool clear = corner.value - corner.below > 0x1p-21f * (value + below) + 0x1p-120f;
    return finite && (corner.label == 0 || clear) ? corner.label : UNSURE;
}

BOTH bool agree(int a, int b, int c, int d) { return a == b && a == c && a == d && a != UNSURE; }
