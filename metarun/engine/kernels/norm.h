// Batch norm with the batch's own statistics, then (where asked) ReLU, then (where asked) 2x2 max-pooling, as one
// operation with its first and second derivative. All arrays are channels last: y [T][n][H][W][C], and pooled ones
// [T][n][H/2][W/2][C].
//
// Normalising is monotone in each channel, so the largest normalised value of a window is the largest y of it (the
// smallest where gamma < 0, the first where gamma = 0): pool first, and normalise a quarter of the values.
//
// Sums over pixels are made in double. A channel that is blank, or nearly, is normalised by 1/sqrt(eps), and a sum in
// float would be off by a thousandth of what it holds.
#pragma once
#include <array>
#include <cmath>
#include "native.h"

template <typename real>
struct Norm {
    typedef typename Vectors<real>::type vec;
    typedef decltype(vec{} < vec{}) mask;  // integers of real's width, 0 or -1
    typedef unsigned char byte;
    typedef byte bytes __attribute__((vector_size(Vectors<real>::N), aligned(1)));
    static constexpr int N = Vectors<real>::N, RUN = 4;
    typedef ::Sum<real> Sum;
    static constexpr byte DEAD = 4;  // in `chosen`: no entry of the window passes a gradient on

    int T, n, H, W, C;
    bool pool, relu;
    const real *y, *gamma, *beta, *mean, *rstd;  // gamma and beta [T][C], mean and rstd [T][P]
    const real* best;                            // [T][n][H/2][W/2][P] the y that its window passes on, where pooling
    const byte* chosen;                          // same shape: which of the window's four it is, or DEAD
    const int P = whole<real>(C);                // what lies in scratch is filled up to whole vectors, with zeros

    int h() const { return pool ? H / 2 : H; }
    int w() const { return pool ? W / 2 : W; }
    long pixels() const { return (long)H * W; }
    long cells() const { return (long)h() * w(); }  // pixels of the result

    static vec load(const real* p) { return *(const vec*)p; }
    static vec load(const real* p, int left) { return ::load<real>(p, left); }
    static void store(real* p, vec v) { *(vec*)p = v; }
    static void store(real* p, vec v, int left) { ::store<real>(p, v, left); }
    static vec keep(mask m, vec v) { return (vec)((mask)v & m); }

    // one(first, last, c): pixels in short runs, for all vectors of channels before the next run. Sums over a run stay
    // in registers; runs much longer than this make memory slow, as they jump from line to line.
    template <typename F>
    void runs(int run, long count, F one) const {
        for (long first = 0; first < count; first += run)
            for (int c = 0; c < C; c += N) one(first, std::min(first + run, count), c);
    }

    // Sums over the images of each task of what one(image, out) adds to out [count][P] -> result [T][count][P]
    template <typename F>
    void sum_images(int count, double* result, F one) const {
        std::vector<double> partial((size_t)T * n * count * P, 0);
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) one(image, partial.data() + image * count * P);
        for (long t = 0; t < T; t++)
            for (long i = 0; i < (long)count * P; i++) {
                double sum = 0;
                for (long image = t * n; image < (t + 1) * n; image++) sum += partial[image * count * P + i];
                result[t * count * P + i] = sum;
            }
    }

    void forward(real eps, real* z, real* mean_out, real* rstd_out, real* best_out, byte* chosen_out) const {
        // mean and sum of squared deviations of each image, then joined (Chan et al. 1979)
        std::vector<double> partial((size_t)T * n * 2 * P, 0);
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const real *from = y + image * pixels() * C, *g = gamma + image / n * C;
            double *middle = &partial[image * 2 * P], *squares = middle + P;
            runs(RUN, pixels(), [&](long first, long last, int c) {
                Sum sum;
                for (long p = first; p < last; p++) sum.add(Sum(load(from + p * C + c, C - c)));
                sum.into(middle + c);
            });
            std::vector<real> about(P);
            for (int c = 0; c < C; c++) about[c] = middle[c] /= pixels();
            runs(RUN, pixels(), [&](long first, long last, int c) {
                Sum sum;
                for (long p = first; p < last; p++) {
                    const Sum d(load(from + p * C + c, C - c) - load(&about[c]));
                    sum.add(d, d);
                }
                sum.into(squares + c);
            });
            for (int i = 0; pool && i < h(); i++)
                for (int j = 0; j < w(); j++)
                    for (int c = 0; c < C; c += N) {
                        const real* corner = from + ((long)2 * i * W + 2 * j) * C + c;
                        const vec slope = load(g + c, C - c);
                        const mask falling = slope < 0, rising = slope > 0;  // neither: all are equal, the first counts
                        vec top = load(corner, C - c);
                        mask which = {};
                        UNROLL for (int k = 1; k < 4; k++) {
                            const vec v = load(corner + ((long)(k / 2) * W + k % 2) * C, C - c);
                            const mask better = (falling & (v < top)) | (rising & (v > top));
                            top = better ? v : top;
                            which = better ? mask{} + k : which;
                        }
                        const long cell = (image * cells() + (long)i * w() + j) * P + c;
                        store(best_out + cell, top);
                        *(bytes*)(chosen_out + cell) = __builtin_convertvector(which, bytes);
                    }
        }
        for (long t = 0; t < T; t++)
            for (int c = 0; c < P; c++) {
                double sum = 0, squares = 0;
                for (long image = t * n; image < (t + 1) * n; image++) sum += partial[image * 2 * P + c];
                const double middle = sum / n;
                for (long image = t * n; image < (t + 1) * n; image++) {
                    const double d = partial[image * 2 * P + c] - middle;
                    squares += partial[(image * 2 + 1) * P + c] + d * d * pixels();
                }
                mean_out[t * P + c] = middle;
                rstd_out[t * P + c] = 1 / std::sqrt(squares / (n * pixels()) + eps);
            }
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const long t = image / n;
            for (long p = 0; p < cells(); p++)
                for (int c = 0; c < C; c += N) {
                    const long at = (image * cells() + p) * C + c, cell = (image * cells() + p) * P + c;
                    const vec scale = load(rstd_out + t * P + c) * load(gamma + t * C + c, C - c);
                    const vec value = pool ? load(best_out + cell) : load(y + at, C - c);
                    vec v = (value - load(mean_out + t * P + c)) * scale + load(beta + t * C + c, C - c);
                    if (relu) {
                        const mask alive = v > 0 || v != v;
                        v = keep(alive, v);
                        if (pool) {
                            bytes& which = *(bytes*)(chosen_out + cell);
                            const mask now = alive ? __builtin_convertvector(which, mask) : mask{} + DEAD;
                            which = __builtin_convertvector(now, bytes);
                        }
                    }
                    store(z + at, v, C - c);
                }
        }
    }

    // What a task's derivatives need of it, channel by channel
    struct Channels {
        std::vector<real> m, r, scale, shift;
        Channels(const Norm& of, long t)
            : m(of.mean + t * of.P, of.mean + (t + 1) * of.P), r(of.rstd + t * of.P, of.rstd + (t + 1) * of.P),
              scale(of.P), shift(of.P) {
            for (int c = 0; c < of.C; c++) scale[c] = r[c] * of.gamma[t * of.C + c], shift[c] = of.beta[t * of.C + c];
        }
    };
    mask alive(const Channels& k, vec value, int c) const {
        return (value - load(&k.m[c])) * load(&k.scale[c]) + load(&k.shift[c]) > 0;
    }

    // one(sums, offset, c, y, g) for each vector of an image, g the gradient that arrives there through ReLU and
    // pooling; sums are added to totals [COUNT][P]
    template <int COUNT, typename F>
    void each_value(const Channels& k, const real* dz, long image, double* totals, F one) const {
        const long start = image * pixels() * C;
        const auto add_up = [&](const std::array<Sum, COUNT>& sums, int c) {
            for (int i = 0; i < COUNT; i++) sums[i].into(totals + i * P + c);
        };
        if (!pool) {
            runs(COUNT ? RUN : 1, pixels(), [&](long first, long last, int c) {
                std::array<Sum, COUNT> sums;
                for (long p = first; p < last; p++) {
                    const long at = start + p * C + c;
                    const vec value = load(y + at, C - c), g = load(dz + at, C - c);
                    one(sums, at, c, value, relu ? keep(alive(k, value, c), g) : g);
                }
                add_up(sums, c);
            });
            return;
        }
        for (int i = 0; i < H; i += 2)
            runs(COUNT ? RUN : 2, W, [&](long first, long last, int c) {
                std::array<Sum, COUNT> sums;
                for (int j = first; j < last; j += 2) {
                    const bool pooled = i / 2 < h() && j / 2 < w();  // of the windows at odd borders nothing is pooled
                    const long cell = image * cells() + (long)(i / 2) * w() + j / 2;
                    const vec g = pooled ? load(dz + cell * C + c, C - c) : vec{};
                    const mask which = pooled ? __builtin_convertvector(*(const bytes*)(chosen + cell * P + c), mask) : mask{};
                    UNROLL for (int q = 0; q < 4; q++) {
                        if (i + q / 2 >= H || j + q % 2 >= W) continue;
                        const long at = start + ((long)(i + q / 2) * W + j + q % 2) * C + c;
                        one(sums, at, c, load(y + at, C - c), keep(which == q, g));
                    }
                }
                add_up(sums, c);
            });
    }

    // sum g and sum g (y - mean) over the batch -> sums [T][2][P]
    void gradient_sums(const real* dz, double* sums) const {
        sum_images(2, sums, [&](long image, double* out) {
            const Channels k(*this, image / n);
            runs(RUN, cells(), [&](long first, long last, int c) {
                Sum of_g, of_gd;
                for (long p = first; p < last; p++) {
                    const long at = (image * cells() + p) * C + c, cell = (image * cells() + p) * P + c;
                    const vec value = pool ? load(best + cell) : load(y + at, C - c);
                    vec g = load(dz + at, C - c);
                    if (pool) g = keep(__builtin_convertvector(*(const bytes*)(chosen + cell), mask) != DEAD, g);
                    else if (relu) g = keep(alive(k, value, c), g);
                    const Sum wide(g);
                    of_g.add(wide);
                    of_gd.add(wide, Sum(value - load(&k.m[c])));
                }
                of_g.into(out + c), of_gd.into(out + P + c);
            });
        });
    }

    // dy = gamma r (g - mean g - x^ mean(g x^)), dgamma = sum g x^, dbeta = sum g
    void backward(const real* dz, real* dy, real* dgamma, real* dbeta) const {
        std::vector<double> sums((size_t)T * 2 * P);
        gradient_sums(dz, sums.data());
        const double count = (double)n * pixels();
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const long t = image / n;
            const Channels k(*this, t);
            std::vector<real> middle(P), on_d(P);  // dy = scale (g - middle) + on_d (y - mean)
            for (int c = 0; c < C; c++) {
                const double g = sums[t * 2 * P + c], gx = sums[(t * 2 + 1) * P + c] * k.r[c];
                if (image % n == 0) dbeta[t * C + c] = g, dgamma[t * C + c] = gx;
                middle[c] = g / count, on_d[c] = -k.scale[c] * k.r[c] * gx / count;
            }
            each_value<0>(k, dz, image, nullptr, [&](auto&, long at, int c, vec value, vec g) {
                store(dy + at, load(&k.scale[c]) * (g - load(&middle[c])) + load(&on_d[c]) * (value - load(&k.m[c])), C - c);
            });
        }
    }

    // The gradient of sum(u dy) + sum(a dgamma) + sum(b dbeta), for dy, dgamma, dbeta as `backward` makes them, in
    // dz, y and gamma. With U1 = mean u, U2 = mean(u x^), q = mean(u g) - m1 U1 - m2 U2 and
    // k = g (a - gamma r U2) - gamma r m2 u:
    //   in dz: gamma r (u - U1 - x^ U2) + a x^ + b, where the gradient passes
    //   in y: r (k - mean k - x^ mean(k x^)) - gamma r^2 q x^
    //   in gamma: n r q
    void second(const real* dz, const real* u, const real* a, const real* b, real* d_dz, real* d_y, real* d_gamma) const {
        std::vector<double> sums((size_t)T * 2 * P), others((size_t)T * 3 * P);
        gradient_sums(dz, sums.data());
        sum_images(3, others.data(), [&](long image, double* out) {
            const Channels k(*this, image / n);
            each_value<3>(k, dz, image, out, [&](auto& of, long at, int c, vec value, vec g) {
                const Sum v(load(u + at, C - c));
                of[0].add(v), of[1].add(v, Sum(value - load(&k.m[c]))), of[2].add(v, Sum(g));
            });
        });
        const double count = (double)n * pixels();
#pragma omp parallel for schedule(dynamic)
        for (long image = 0; image < (long)T * n; image++) {
            const long t = image / n;
            const Channels k(*this, t);
            std::vector<real> on_g(P), on_u(P), on_x(P), m1(P), u1(P), u2(P);
            for (int c = 0; c < C; c++) {
                const double r = k.r[c], g1 = sums[t * 2 * P + c] / count, g2 = r * sums[(t * 2 + 1) * P + c] / count;
                const double v1 = others[t * 3 * P + c] / count, v2 = r * others[(t * 3 + 1) * P + c] / count;
                const double q = others[(t * 3 + 2) * P + c] / count - g1 * v1 - g2 * v2;
                const double kg = a[t * C + c] - k.scale[c] * v2, ku = k.scale[c] * g2;
                on_g[c] = r * kg, on_u[c] = -r * ku, m1[c] = g1, u1[c] = v1, u2[c] = v2;
                on_x[c] = -r * (kg * g2 - ku * v2) - k.scale[c] * r * q;
                if (image % n == 0) d_gamma[t * C + c] = count * r * q;
            }
            const auto in_dz = [&](int c, vec x, vec v) {
                return load(&k.scale[c]) * (v - load(&u1[c]) - x * load(&u2[c])) + load(a + t * C + c, C - c) * x + load(b + t * C + c, C - c);
            };
            each_value<0>(k, dz, image, nullptr, [&](auto&, long at, int c, vec value, vec g) {
                const vec v = load(u + at, C - c), x = (value - load(&k.m[c])) * load(&k.r[c]);
                store(d_y + at, load(&on_g[c]) * (g - load(&m1[c])) + load(&on_u[c]) * (v - load(&u1[c])) + load(&on_x[c]) * x, C - c);
                if (!pool) store(d_dz + at, relu ? keep(alive(k, value, c), in_dz(c, x, v)) : in_dz(c, x, v), C - c);
            });
            for (long p = 0; pool && p < cells(); p++)
                for (int c = 0; c < C; c += N) {
                    const long cell = (image * cells() + p) * P + c;
                    const real* corner = u + (image * pixels() + (p / w()) * 2 * W + p % w() * 2) * C + c;
                    const mask which = __builtin_convertvector(*(const bytes*)(chosen + cell), mask);
                    vec v = {};
                    UNROLL for (int q = 0; q < 4; q++) v += keep(which == q, load(corner + ((long)(q / 2) * W + q % 2) * C, C - c));
                    const vec x = (load(best + cell) - load(&k.m[c])) * load(&k.r[c]);
                    store(d_dz + (image * cells() + p) * C + c, keep(which != DEAD, in_dz(c, x, v)), C - c);
                }
        }
    }
};
