// 3x3 convolutions of stride 1 and padding 1 by Winograd's minimal filtering F(2x2, 3x3): Lavin and Gray 2016, "Fast
// algorithms for convolutional neural networks", section 4.1. 2.25 times fewer multiplications than the definition.
//
// A 2x2 tile of the output is A^T [(G g G^T) * (B^T d B)] A with d the 4x4 patch of the input under it, g the filter.
// The products in the middle, summed over channels, are sixteen matrix products with one row for each tile. Both
// derivatives are the same three steps with the matrices transposed.
#pragma once
#include "native.h"

template <typename real>
struct Winograd {
    typedef typename Vectors<real>::type vec;
    static constexpr int N = Vectors<real>::N, POINTS = 16, BLOCK = 48;  // tiles at a time: scratch that fits L2
    static constexpr long plane(int channels) { return (long)BLOCK * channels + N; }  // of one point; N: spread over L1
    static constexpr real BT[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
    static constexpr real AT[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
    static constexpr real G[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};

    // out = M in M^T, or M^T in M where TRANSPOSED; the compiler unrolls it and drops zeros and ones
    template <int P, int Q, bool TRANSPOSED, typename T, int X, int Y>
    static inline __attribute__((always_inline)) void both_sides(const real (&m)[X][Y], T (&in)[Q][Q], T (&out)[P][P]) {
        T half[P][Q];
        UNROLL for (int q = 0; q < Q; q++) UNROLL for (int p = 0; p < P; p++) {
            half[p][q] = T{};
            UNROLL for (int k = 0; k < Q; k++) add(half[p][q], TRANSPOSED ? m[k][p] : m[p][k], in[k][q]);
        }
        UNROLL for (int p = 0; p < P; p++) UNROLL for (int r = 0; r < P; r++) {
            out[p][r] = T{};
            UNROLL for (int k = 0; k < Q; k++) add(out[p][r], TRANSPOSED ? m[k][r] : m[r][k], half[p][k]);
        }
    }
    template <typename T>
    static inline __attribute__((always_inline)) void add(T& sum, real factor, const T& value) {
        if (factor == 1) sum += value;
        else if (factor == -1) sum -= value;
        else if (factor != 0) sum += factor * value;
    }

    struct Tiling {  // the 2x2 tiles of n images of height x width
        int height, width, down, across, count;
        Tiling(int n, int h, int w) : height(h), width(w), down((h + 1) / 2), across((w + 1) / 2), count(n * down * across) {}
        bool inside(int y, int x) const { return y >= 0 && y < height && x >= 0 && x < width; }
        struct Place { int n, y, x; };
        Place at(int tile) const { return {tile / (down * across), tile / across % down * 2, tile % across * 2}; }
        long pixel(Place p, int i, int j) const { return ((long)p.n * height + p.y + i) * width + p.x + j; }
    };

    // filters w [K][C][3][3] -> U [16][C][K]; turned by 180 degrees and [16][K][C] for the derivative in the input.
    // Here and below the last axis is filled up to whole vectors, except in w, x, y and their derivatives.
    static void filters(const real* w, int K, int C, bool turned, real* U) {
        const int rows = turned ? K : C, columns = turned ? C : K, wide = whole<real>(columns);
        const long row_step = turned ? (long)C * 9 : 9, column_step = turned ? 9 : (long)C * 9;
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column += N) {
                vec g[3][3], u[4][4];
                for (int s = 0; s < 9; s++)
                    for (int i = 0; i < N; i++)
                        g[s / 3][s % 3][i] =
                            column + i < columns ? w[row * row_step + (column + i) * column_step + (turned ? 8 - s : s)] : 0;
                both_sides<4, 3, false>(G, g, u);
                for (int p = 0; p < POINTS; p++) *(vec*)(U + ((long)p * rows + row) * wide + column) = u[p / 4][p % 4];
            }
    }
    // patches of x [n][H][W][C] under tiles first.. -> V [16][plane]; nothing: C zeros
    static void patches(const real* x, const Tiling& tiles, int C, int first, int count, const real* nothing, real* V) {
        const int wide = whole<real>(C);
        for (int t = 0; t < count; t++) {
            auto place = tiles.at(first + t);
            const real* from[POINTS];
            for (int p = 0; p < POINTS; p++) {
                const int i = p / 4 - 1, j = p % 4 - 1;
                from[p] = tiles.inside(place.y + i, place.x + j) ? x + tiles.pixel(place, i, j) * C : nothing;
            }
            for (int c = 0; c < C; c += N) {
                vec d[4][4], v[4][4];
                UNROLL for (int p = 0; p < POINTS; p++) d[p / 4][p % 4] = load(from[p] + c, C - c);
                both_sides<4, 4, false>(BT, d, v);
                UNROLL for (int p = 0; p < POINTS; p++) *(vec*)(V + p * plane(wide) + (long)t * wide + c) = v[p / 4][p % 4];
            }
        }
    }
    // tiles first.. of an output y [n][H][W][K] from the products D [16][plane]
    static void gather(const real* D, const Tiling& tiles, int K, int first, int count, real* y) {
        const int wide = whole<real>(K);
        for (int t = 0; t < count; t++) {
            auto place = tiles.at(first + t);
            for (int k = 0; k < K; k += N) {
                vec d[4][4], v[2][2];
                UNROLL for (int p = 0; p < POINTS; p++) d[p / 4][p % 4] = *(const vec*)(D + p * plane(wide) + (long)t * wide + k);
                both_sides<2, 4, false>(AT, d, v);
                UNROLL for (int i = 0; i < 2; i++) UNROLL for (int j = 0; j < 2; j++)
                    if (tiles.inside(place.y + i, place.x + j)) store(y + tiles.pixel(place, i, j) * K + k, v[i][j], K - k);
            }
        }
    }
    // the transpose of gather: dy [n][H][W][K] -> D [16][plane]
    static void spread(const real* dy, const Tiling& tiles, int K, int first, int count, real* D) {
        const int wide = whole<real>(K);
        for (int t = 0; t < count; t++) {
            auto place = tiles.at(first + t);
            for (int k = 0; k < K; k += N) {
                vec d[2][2], v[4][4];
                UNROLL for (int i = 0; i < 2; i++) UNROLL for (int j = 0; j < 2; j++)
                    d[i][j] = tiles.inside(place.y + i, place.x + j) ? load(dy + tiles.pixel(place, i, j) * K + k, K - k) : vec{};
                both_sides<4, 2, true>(AT, d, v);
                UNROLL for (int p = 0; p < POINTS; p++) *(vec*)(D + p * plane(wide) + (long)t * wide + k) = v[p / 4][p % 4];
            }
        }
    }

    // y [T][n][H][W][out] = x [T][n][H][W][in] convolved with w; out = K, in = C, or the reverse where turned
    static void convolve(const real* x, const real* w, real* y, int T, int n, int H, int W, int K, int C, bool shared, bool turned) {
        const int in = turned ? K : C, out = turned ? C : K, wide_in = whole<real>(in), wide = whole<real>(out);
        const Tiling tiles(n, H, W);
        const int blocks = (tiles.count + BLOCK - 1) / BLOCK, sets = shared ? 1 : T;
        const long size = (long)POINTS * in * wide, image = (long)n * H * W;
        Buffer<real> U(sets * size);
        const std::vector<real> nothing(in, 0);
#pragma omp parallel
        {
#pragma omp for
            for (int t = 0; t < sets; t++) filters(w + (long)t * K * C * 9, K, C, turned, U.data + t * size);
            Buffer<real> V(POINTS * plane(wide_in)), D(POINTS * plane(wide));
#pragma omp for schedule(dynamic)
            for (long item = 0; item < (long)T * blocks; item++) {
                const long t = item / blocks;
                const int first = item % blocks * BLOCK, count = std::min(BLOCK, tiles.count - first);
                const real* u = U.data + (shared ? 0 : t * size);
                patches(x + t * image * in, tiles, in, first, count, nothing.data(), V.data);
                for (int p = 0; p < POINTS; p++)
                    product<real, false>(count, wide, in, V.data + p * plane(wide_in), wide_in, 1, u + (long)p * in * wide,
                                         wide, D.data + p * plane(wide), wide);
                gather(D.data, tiles, out, first, count, y + t * image * out);
            }
        }
    }

    // dw [T][K][C][3][3] = the derivative in the filters, from x [T][n][H][W][C] and dy [T][n][H][W][K]
    static void correlate(const real* x, const real* dy, real* dw, int T, int n, int H, int W, int K, int C) {
        const Tiling tiles(n, H, W);
        const int wide_in = whole<real>(C), wide = whole<real>(K);
        const int blocks = (tiles.count + BLOCK - 1) / BLOCK, parts = parts_of(blocks);
        const long size = (long)POINTS * C * wide, image = (long)n * H * W;
        std::vector<real> U(T * parts * size);
        const std::vector<real> nothing(C, 0);
#pragma omp parallel
        {
            Buffer<real> V(POINTS * plane(wide_in)), D(POINTS * plane(wide));
#pragma omp for schedule(dynamic)
            for (int item = 0; item < T * parts; item++) {
                const long t = item / parts;
                const int part = item % parts;
                for (int b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
                    const int first = b * BLOCK, count = std::min(BLOCK, tiles.count - first);
                    patches(x + t * image * C, tiles, C, first, count, nothing.data(), V.data);
                    spread(dy + t * image * K, tiles, K, first, count, D.data);
                    for (int p = 0; p < POINTS; p++)
                        product<real, true>(C, wide, count, V.data + p * plane(wide_in), 1, wide_in, D.data + p * plane(wide), wide,
                                            U.data() + item * size + (long)p * C * wide, wide);
                }
            }
#pragma omp for
            for (long item = 0; item < (long)T * C; item++) {
                const long t = item / C, c = item % C;
                for (int k = 0; k < K; k += N) {
                    vec u[4][4], g[3][3];
                    for (int p = 0; p < POINTS; p++) {
                        u[p / 4][p % 4] = vec{};
                        for (int q = 0; q < parts; q++)
                            u[p / 4][p % 4] += *(const vec*)&U[(t * parts + q) * size + ((long)p * C + c) * wide + k];
                    }
                    both_sides<3, 4, true>(G, u, g);
                    for (int s = 0; s < 9; s++)
                        for (int i = 0; i < std::min(N, K - k); i++) dw[((t * K + k + i) * C + c) * 9 + s] = g[s / 3][s % 3][i];
                }
            }
        }
    }
};
