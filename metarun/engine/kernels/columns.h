// Convolutions of any square kernel, stride and padding as matrix products: the patches under a block of output pixels
// are laid out as the rows of a matrix that stays in cache.
#pragma once
#include "native.h"

template <typename real>
struct Columns {
    static constexpr int BLOCK = 96;  // output pixels at a time

    struct Shape {
        int n, H, W, C, K, kernel, stride, padding, h, w, length;
        Shape(int n, int H, int W, int C, int K, int kernel, int stride, int padding)
            : n(n), H(H), W(W), C(C), K(K), kernel(kernel), stride(stride), padding(padding),
              h((H + 2 * padding - kernel) / stride + 1), w((W + 2 * padding - kernel) / stride + 1),
              length(kernel * kernel * C) {}
        int pixels() const { return n * h * w; }
    };

    // w [K][C][kernel][kernel] -> [taps][C][K], so that a row of a matrix meets it tap by tap
    static void by_taps(const real* w, const Shape& s, real* out, long tap_step, long c_step, long k_step) {
        const int taps = s.kernel * s.kernel;
        for (int k = 0; k < s.K; k++)
            for (int c = 0; c < s.C; c++)
                for (int tap = 0; tap < taps; tap++)
                    out[tap * tap_step + c * c_step + k * k_step] = w[((long)k * s.C + c) * taps + tap];
    }

    // x [n][H][W][C] -> rows [count][kernel * kernel * C] for output pixels first..
    static void lay_out(const real* x, const Shape& s, int first, int count, real* rows) {
        for (int r = 0; r < count; r++) {
            const int pixel = first + r, image = pixel / (s.h * s.w);
            const int y0 = pixel / s.w % s.h * s.stride - s.padding, x0 = pixel % s.w * s.stride - s.padding;
            real* row = rows + (long)r * s.length;
            for (int i = 0; i < s.kernel; i++)
                for (int j = 0; j < s.kernel; j++, row += s.C) {
                    const bool inside = y0 + i >= 0 && y0 + i < s.H && x0 + j >= 0 && x0 + j < s.W;
                    const real* from = x + (((long)image * s.H + y0 + i) * s.W + x0 + j) * s.C;
                    if (s.C == 1) *row = inside ? *from : 0;
                    else if (inside) std::memcpy(row, from, s.C * sizeof(real));
                    else std::memset(row, 0, s.C * sizeof(real));
                }
        }
    }

    // one(r, k) for the vectors of rows [count][K]
    template <typename F>
    static void each_vector(int count, int K, F one) {
        for (long r = 0; r < count; r++)
            for (int k = 0; k < K; k += Vectors<real>::N) one(r, k);
    }

    // y [T][n][h][w][K] from x [T][n][H][W][C] and w [T or 1][K][C][kernel][kernel]
    static void convolve(const real* x, const real* w, real* y, int T, const Shape& s, bool shared) {
        const int blocks = (s.pixels() + BLOCK - 1) / BLOCK, sets = shared ? 1 : T;
        const int wide = whole<real>(s.K);
        const long size = (long)s.length * s.K, turned = (long)s.length * wide;
        std::vector<real> transposed(sets * turned);
#pragma omp parallel
        {
#pragma omp for
            for (int t = 0; t < sets; t++)
                by_taps(w + t * size, s, transposed.data() + t * turned, (long)s.C * wide, wide, 1);
            Buffer<real> rows(BLOCK * s.length), made(BLOCK * wide);
#pragma omp for schedule(dynamic)
            for (long item = 0; item < (long)T * blocks; item++) {
                const long t = item / blocks;
                const int first = item % blocks * BLOCK, count = std::min(BLOCK, s.pixels() - first);
                lay_out(x + t * s.n * s.H * s.W * s.C, s, first, count, rows.data);
                real* out = y + (t * s.pixels() + first) * s.K;
                product<real, false>(count, wide, s.length, rows.data, s.length, 1,
                                     transposed.data() + (shared ? 0 : t * turned), wide, wide == s.K ? out : made.data, wide);
                if (wide != s.K) each_vector(count, s.K, [&](long r, int k) {
                    store(out + r * s.K + k, load(made.data + r * wide + k, wide), s.K - k);
                });
            }
        }
    }

    // dx [T][n][H][W][C] from dy [T][n][h][w][K] and w [T or 1][K][C][kernel][kernel]
    static void transpose(const real* dy, const real* w, real* dx, int T, const Shape& s, bool shared) {
        constexpr int N = Vectors<real>::N;
        const int sets = shared ? 1 : T, cells = s.h * s.w, padded = (s.length + N - 1) / N * N;
        const long size = (long)s.length * s.K, turned = (long)padded * s.K;
        std::vector<real> by_filter(sets * turned);
#pragma omp parallel
        {
#pragma omp for
            for (int t = 0; t < sets; t++) by_taps(w + t * size, s, by_filter.data() + t * turned, s.C, 1, padded);
            Buffer<real> rows((size_t)cells * padded);
#pragma omp for schedule(dynamic)
            for (long image = 0; image < (long)T * s.n; image++) {
                product<real, false>(cells, padded, s.K, dy + image * cells * s.K, s.K, 1,
                                     by_filter.data() + (shared ? 0 : image / s.n * turned), padded, rows.data, padded);
                real* out = dx + image * s.H * s.W * s.C;
                std::memset(out, 0, (size_t)s.H * s.W * s.C * sizeof(real));
                for (int cell = 0; cell < cells; cell++)
                    for (int tap = 0; tap < s.kernel * s.kernel; tap++) {
                        const int yy = cell / s.w * s.stride - s.padding + tap / s.kernel;
                        const int xx = cell % s.w * s.stride - s.padding + tap % s.kernel;
                        if (yy < 0 || yy >= s.H || xx < 0 || xx >= s.W) continue;
                        const real* row = rows.data + (long)cell * padded + tap * s.C;
                        for (int c = 0; c < s.C; c++) out[((long)yy * s.W + xx) * s.C + c] += row[c];
                    }
            }
        }
    }

    // dw [T][K][C][kernel][kernel] from x [T][n][H][W][C] and dy [T][n][h][w][K]
    static void correlate(const real* x, const real* dy, real* dw, int T, const Shape& s) {
        const int blocks = (s.pixels() + BLOCK - 1) / BLOCK, parts = parts_of(blocks);
        const int wide = whole<real>(s.K);
        const long size = (long)s.length * wide;
        std::vector<real> sums(T * parts * size);
#pragma omp parallel
        {
            Buffer<real> rows(BLOCK * s.length), filled(BLOCK * wide);
#pragma omp for schedule(dynamic)
            for (int item = 0; item < T * parts; item++) {
                const long t = item / parts;
                const int part = item % parts;
                for (int b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
                    const int first = b * BLOCK, count = std::min(BLOCK, s.pixels() - first);
                    lay_out(x + t * s.n * s.H * s.W * s.C, s, first, count, rows.data);
                    const real* given = dy + (t * s.pixels() + first) * s.K;
                    if (wide != s.K) each_vector(count, s.K, [&](long r, int k) {
                        store(filled.data + r * wide + k, load(given + r * s.K + k, s.K - k), wide);
                    });
                    product<real, true>(s.length, wide, count, rows.data, 1, s.length, wide == s.K ? given : filled.data,
                                        wide, sums.data() + item * size, wide);
                }
            }
        }
        for (long t = 0; t < T; t++)
            for (int k = 0; k < s.K; k++)
                for (int c = 0; c < s.C; c++)
                    for (int tap = 0; tap < s.kernel * s.kernel; tap++) {
                        real sum = 0;
                        for (int part = 0; part < parts; part++)
                            sum += sums[(t * parts + part) * size + ((long)tap * s.C + c) * wide + k];
                        dw[((t * s.K + k) * s.C + c) * s.kernel * s.kernel + tap] = sum;
                    }
    }
};
