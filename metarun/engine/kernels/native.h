// Vectors of the machine's width, and the one small matrix product that both kinds of convolution are made of.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 6, COLS = 4;  // registers that a tile of the product fills: ROWS x COLS vectors
#elif defined(__aarch64__)
constexpr int BYTES = 16, ROWS = 6, COLS = 4;
#else
constexpr int BYTES = 32, ROWS = 6, COLS = 2;
#endif

template <typename real>
struct Vectors {
    typedef real type __attribute__((vector_size(BYTES), aligned(sizeof(real))));
    static constexpr int N = BYTES / sizeof(real);
};

#define UNROLL _Pragma("GCC unroll 8")

// Channels with those that fill up their last vector
template <typename real>
static constexpr int whole(int channels) {
    constexpr int N = Vectors<real>::N;
    return (channels + N - 1) / N * N;
}

// A vector of which only the first `left` numbers are there, where it is the last of a pixel's: what lies behind them
// belongs to others, and is neither read nor written.
template <typename real>
static inline __attribute__((always_inline)) typename Vectors<real>::type load(const real* p, int left) {
    constexpr int N = Vectors<real>::N;
    if (left >= N) return *(const typename Vectors<real>::type*)p;
    typename Vectors<real>::type v;
    real* to = (real*)&v;
    for (int i = 0; i < N; i++) to[i] = i < left ? p[i] : 0;
    return v;
}
template <typename real>
static inline __attribute__((always_inline)) void store(real* p, typename Vectors<real>::type v, int left) {
    constexpr int N = Vectors<real>::N;
    if (left >= N) {
        *(typename Vectors<real>::type*)p = v;
        return;
    }
    const real* from = (const real*)&v;
    for (int i = 0; i < N; i++)
        if (i < left) p[i] = from[i];
}

template <typename real>
struct Sum {  // in double, one for each number of a vector
    typedef typename Vectors<real>::type vec;
    static constexpr int W = BYTES / sizeof(double), PARTS = Vectors<real>::N / W;
    typedef double wide __attribute__((vector_size(BYTES), aligned(8)));
    typedef real part __attribute__((vector_size(W * sizeof(real)), aligned(sizeof(real))));
    wide parts[PARTS];

    Sum() { UNROLL for (int i = 0; i < PARTS; i++) parts[i] = wide{}; }
    explicit Sum(vec v) {
#ifdef __AVX512F__
        if constexpr (PARTS == 2) {  // GCC makes eight instructions of these three
            const __m512d both = (__m512d)v;
            parts[0] = _mm512_cvtps_pd((__m256)_mm512_castpd512_pd256(both));
            parts[1] = _mm512_cvtps_pd((__m256)_mm512_extractf64x4_pd(both, 1));
            return;
        }
#endif
        UNROLL for (int i = 0; i < PARTS; i++) {
            part some;
            std::memcpy(&some, (const real*)&v + i * W, sizeof some);
            parts[i] = __builtin_convertvector(some, wide);
        }
    }
    void add(Sum v) { UNROLL for (int i = 0; i < PARTS; i++) parts[i] += v.parts[i]; }
    void add(Sum v, Sum w) { UNROLL for (int i = 0; i < PARTS; i++) parts[i] += v.parts[i] * w.parts[i]; }
    void into(double* total) const { UNROLL for (int i = 0; i < PARTS; i++) *(wide*)(total + i * W) += parts[i]; }
};

template <typename real>
struct Buffer {  // scratch memory of one thread
    explicit Buffer(size_t size) : data((real*)aligned_alloc(64, (size * sizeof(real) + 63) / 64 * 64)) {}
    ~Buffer() { free(data); }
    Buffer(const Buffer&) = delete;
    real* data;
};

// A sum over blocks of pixels is made in this many parts, side by side. It depends on nothing but the shape: cut
// otherwise, the sum would have other bits with another number of threads.
static inline int parts_of(int blocks) { return std::min((blocks + 15) / 16, 16); }

// C[i][j] = or += sum_l A[i * ra + l * ca] * B[l * ldb + j] for R rows and V vectors of columns
template <typename real, int R, int V, bool ADD>
static inline __attribute__((always_inline)) void product_tile(int L, const real* A, long ra, long ca, const real* B,
                                                               long ldb, real* C, long ldc) {
    typedef typename Vectors<real>::type vec;
    constexpr int N = Vectors<real>::N;
    vec sum[R][V];
    UNROLL for (int i = 0; i < R; i++) UNROLL for (int j = 0; j < V; j++) sum[i][j] = vec{};
    for (int l = 0; l < L; l++) {
        vec b[V];
        UNROLL for (int j = 0; j < V; j++) b[j] = *(const vec*)(B + l * ldb + j * N);
        UNROLL for (int i = 0; i < R; i++) {
            const real a = A[i * ra + l * ca];
            UNROLL for (int j = 0; j < V; j++) sum[i][j] += a * b[j];
        }
    }
    UNROLL for (int i = 0; i < R; i++) UNROLL for (int j = 0; j < V; j++) {
        vec* c = (vec*)(C + i * ldc + j * N);  // no reference, whose type would promise whole vectors' alignment
        *c = ADD ? *c + sum[i][j] : sum[i][j];
    }
}

template <typename real, int V, bool ADD>
static void product_strip(int I, int L, const real* A, long ra, long ca, const real* B, long ldb, real* C, long ldc) {
    int i = 0;
    for (; i + ROWS <= I; i += ROWS)
        product_tile<real, ROWS, V, ADD>(L, A + i * ra, ra, ca, B, ldb, C + i * ldc, ldc);
    for (; i < I; i++) product_tile<real, 1, V, ADD>(L, A + i * ra, ra, ca, B, ldb, C + i * ldc, ldc);
}

// J is a multiple of the vector width: see whole()
template <typename real, bool ADD>
static void product(int I, int J, int L, const real* A, long ra, long ca, const real* B, long ldb, real* C, long ldc) {
    constexpr int N = Vectors<real>::N;
    int j = 0;
    for (; j + COLS * N <= J; j += COLS * N) product_strip<real, COLS, ADD>(I, L, A, ra, ca, B + j, ldb, C + j, ldc);
    for (; j < J; j += N) product_strip<real, 1, ADD>(I, L, A, ra, ca, B + j, ldb, C + j, ldc);
}
