// The blocked evaluation, compiled once for each instruction set: the including file defines
// SWEEP (a namespace), VL (floats in a vector) and, on x86, the target of the compiler.
// What it does and why is told in hrtem_dask/kernels/msdnet/compiled.py.

namespace SWEEP {

typedef float vec __attribute__((vector_size(4 * VL)));
typedef float unaligned __attribute__((vector_size(4 * VL), aligned(4), may_alias));

static inline vec load(const float* p) { return *(const unaligned*)p; }
static inline void store(float* p, vec v) { *(unaligned*)p = v; }

#if defined(__x86_64__)
// Written out, because the compiler otherwise splits or reorders the chains and spills.
#define FUSED_MULTIPLY_ADD(a, v, k) asm("vfmadd231ps %2, %1, %0" : "+v"(a) : "v"(v), "v"(k))
#define PIN(v) asm("" : "+v"(v))
#else
#define FUSED_MULTIPLY_ADD(a, v, k) a += v * k
#define PIN(v)
#endif

constexpr int TILE_H = 64, TILE_W = 64;   // accumulators of one gather
constexpr int SWEEP_W = 256;              // columns that one step of the sweep moves on
constexpr int PACKED = 10;                // channels packed at a time (L2)
constexpr int IN_L1 = 5;                  // channels of one call of the micro-kernel (L1)
constexpr int ROWS = VL == 16 ? 8 : 4;    // most rows of the micro-kernel for one or two planes

// sums[n][r][x] += sum over channels and the nine taps, for N planes and R rows that lie a dilation
// apart, so that each row loaded serves three taps of N planes. The accumulators stay in registers.
template <int N, int R, bool PREFETCH>
static void micro_kernel(const float* in, long channel, int channels, long row, int dilation,
                         const float* const* weight, float* const* sums, long sums_row, int vectors, bool relu) {
    for (int x = 0; x < vectors; x++) {
        vec a[N][R];
#pragma GCC unroll 3
        for (int n = 0; n < N; n++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) a[n][r] = load(sums[n] + r * sums_row + x * VL);
        const float* p = in + x * VL - row - dilation;
        for (int c = 0, q = 0; c < channels; c++, p += channel, q += 9) {
#pragma GCC unroll 3
            for (int tap = 0; tap < 3; tap++) {
                vec k[N][3];
#pragma GCC unroll 3
                for (int n = 0; n < N; n++)
#pragma GCC unroll 3
                    for (int s = 0; s < 3; s++) { k[n][s] = weight[n][q + 3 * s + tap] - vec{}; PIN(k[n][s]); }
                const float* z = p + tap * (long)dilation;
#pragma GCC unroll 10
                for (int r = 0; r < R + 2; r++) {
                    vec v = load(z);
                    if (PREFETCH && tap == 2) __builtin_prefetch(z + VL);
                    z += row;
                    asm("" : "+r"(z));  // one moving pointer: GCC spills R + 2 of them otherwise
#pragma GCC unroll 3
                    for (int n = 0; n < N; n++) {
                        if (r < R) FUSED_MULTIPLY_ADD(a[n][r], v, k[n][0]);
                        if (r >= 1 && r <= R) FUSED_MULTIPLY_ADD(a[n][r - 1], v, k[n][1]);
                        if (r >= 2) FUSED_MULTIPLY_ADD(a[n][r - 2], v, k[n][2]);
                    }
                }
            }
        }
#pragma GCC unroll 3
        for (int n = 0; n < N; n++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                vec v = a[n][r];
                store(sums[n] + r * sums_row + x * VL, relu ? (v > 0 ? v : vec{}) : v);
            }
    }
}

typedef void (*Micro)(const float*, long, int, long, int, const float* const*, float* const*, long, int, bool);
#define BY_ROWS(N, P) {nullptr, micro_kernel<N, 1, P>, micro_kernel<N, 2, P>, micro_kernel<N, 3, P>, micro_kernel<N, 4, P>, \
                       micro_kernel<N, 5, P>, micro_kernel<N, 6, P>, micro_kernel<N, 7, P>, micro_kernel<N, 8, P>}
static const Micro GATHER[3][9] = {BY_ROWS(1, false), BY_ROWS(2, false), BY_ROWS(3, false)};
static const Micro ALONE[3][9] = {BY_ROWS(1, true), BY_ROWS(2, true), BY_ROWS(3, true)};
constexpr int MOST_ROWS[3] = {ROWS, VL == 16 ? 8 : 4, VL == 16 ? 6 : 2};
constexpr int MOST_PLANES = VL == 16 ? 3 : 2;  // AVX2 has half the registers

// Touches the window that will be packed next, a few rows for each call of the micro-kernel.
struct Prefetcher {
    const float* p;
    long channel, row;
    int channels, y, height, width;
    void some_rows() {
        for (int n = 8; n > 0 && channels > 0; n--) {
            for (int x = 0; x < width; x += 16) __builtin_prefetch(p + y * row + x, 0, 2);
            if (++y == height) { y = 0; channels--; p += channel; }
        }
    }
};

// Up to three planes of one dilation += these channels, on a window of h rows.
static void convolve(const Micro kernels[3][9], int planes, const float* in, long channel, int channels, long row,
                     int dilation, const float* const* weight, float* const* sums, long sums_row, int h, int vectors,
                     bool relu, Prefetcher& next) {
    for (int phase = 0; phase < std::min(dilation, h); phase++) {
        int rows = (h - phase + dilation - 1) / dilation;
        int groups = (rows + MOST_ROWS[planes - 1] - 1) / MOST_ROWS[planes - 1];
        for (int g = 0, done = 0; g < groups; g++) {
            int R = (rows - done + groups - g - 1) / (groups - g);
            long y = phase + (long)done * dilation;
            done += R;
            int c = 0;
            do {  // also with no channel at all: the ReLU is still due
                int m = std::min(IN_L1, channels - c);
                const float* w[3];
                float* s[3];
                for (int n = 0; n < planes; n++) { w[n] = weight[n] + 9 * c; s[n] = sums[n] + y * sums_row; }
                next.some_rows();
                kernels[planes - 1][R](in + c * channel + y * row, channel, m, row * dilation, dilation, w, s,
                                       sums_row * dilation, vectors, relu && c + m == channels);
                c += m;
            } while (c < channels);
        }
    }
}

class Worker {
public:
    Worker(const Job& job, Shared& shared) : j(job), sh(shared), halo(job.halo), margin(job.margin) {
        packed_w = TILE_W + 2 * margin;
        packed_h = TILE_H + 2 * halo;
        packed.reset(PACKED * (long)packed_h * packed_w + 1024);
        sums.reset((long)sh.block * j.width * TILE_H * TILE_W);
        done.resize(sh.block * j.width);  // all memory is taken here: a row that a thread drops would be waited for
    }

    void run() {
        for (int task; (task = sh.next++) < sh.blocks * sh.tiles_y;) {
            int block = task / sh.tiles_y, ty = task % sh.tiles_y;
            for (int tx = 0; tx < sh.tiles_x; tx++) {
                // the row above in this block, and all that the previous block must have finished
                if (ty) sh.wait(block, ty - 1, tx);
                if (block) sh.wait(block - 1, std::min(sh.tiles_y - 1, ty + sh.ahead_y), std::min(sh.tiles_x - 1, tx + sh.ahead_x));
                step(block, ty, tx);
                sh.progress[block * sh.tiles_y + ty].store(tx + 1, std::memory_order_release);
            }
        }
    }

private:
    const Job& j;
    Shared& sh;
    int halo, margin, packed_w, packed_h;
    Buffer packed, sums;
    std::vector<char> done;  // planes of the block that share the loads of one before

    float* plane(long c) const { return j.planes + c * j.plane_stride + margin * j.row_stride + margin; }
    long channel_of(int layer) const { return j.in_channels + (long)layer * j.width; }

    // One step of the sweep: all layers of a block, each on its own window behind the one before.
    void step(int block, int ty, int tx) {
        int first = block * sh.block, end = std::min(j.depth, first + sh.block);
        bool last = end == j.depth;
        for (int sub = first; sub < end; sub += sh.sub_block) {
            Window w = window(sub, ty, tx, j.padded_width);
            for (int x0 = w.x0; w.y1 > w.y0 && x0 < w.x1; x0 += TILE_W)
                gather(first, sub, end, {w.y0, w.y1, x0, std::min(w.x1, x0 + TILE_W)}, last && sub == first);
            for (int layer = sub; layer < std::min(end, sub + sh.sub_block); layer++) finish(sub, layer, ty, tx);
        }
        if (last) output(first, window(end - 1, ty, tx, j.image_width));
    }

    Window window(int layer, int ty, int tx, int right) const {
        int y = ty * TILE_H - sh.lag_y[layer], x = tx * SWEEP_W - sh.lag_x[layer];
        return {std::max(0, y), std::min(j.height, y + TILE_H), std::max(0, x), std::min(right, x + SWEEP_W)};
    }

    // What the channels of earlier blocks (or of the sub-block before) give to all layers that follow in the block.
    void gather(int first, int sub, int end, Window w, bool with_output) {
        bool whole = sub == first;
        long c0 = whole ? 0 : channel_of(sub - sh.sub_block), c1 = channel_of(sub);
        int h = w.y1 - w.y0, vectors = (w.x1 - w.x0) / VL;
        start_sums(sub, end, w, whole, with_output);
        int groups = (c1 - c0 + PACKED - 1) / PACKED;
        for (int g = 0, m; g < groups; g++, c0 += m) {
            m = (c1 - c0) / (groups - g);
            pack(c0, m, w.y0, h, w.x0);
            Prefetcher next = following(sub, whole, c0 + m, c1, groups - g - 1, w);
            std::fill(done.begin(), done.end(), 0);
            for (int p = 0, n = (end - sub) * j.width; p < n; p++) {
                if (done[p]) continue;
                const float* weight[3];
                float* s[3];
                int planes = 0, d = j.dilations[sub + p / j.width];
                for (int q = p; q < n && planes < MOST_PLANES; q++)
                    if (j.dilations[sub + q / j.width] == d && !done[q]) {
                        weight[planes] = weights_of(sub, q) + 9 * c0;
                        s[planes++] = sums.data() + (long)q * TILE_H * TILE_W;
                        done[q] = 1;
                    }
                convolve(GATHER, planes, packed.data() + (long)halo * packed_w + margin, (long)packed_h * packed_w, m,
                         packed_w, d, weight, s, TILE_W, h, vectors, false, next);
            }
            if (with_output) output_from_packed(c0, m, w);
        }
        for (int p = 0; p < (end - sub) * j.width; p++)
            for (int y = 0; y < h; y++)
                memcpy(plane(channel_of(sub) + p) + (w.y0 + y) * j.row_stride + w.x0,
                       sums.data() + ((long)p * TILE_H + y) * TILE_W, 4 * (w.x1 - w.x0));
    }

    const float* weights_of(int sub, int p) const {
        int layer = sub + p / j.width, k = p % j.width;
        return j.weights + j.offsets[layer] + 9 * channel_of(layer) * k;
    }

    void start_sums(int sub, int end, Window w, bool whole, bool with_output) {
        for (int p = 0; p < (end - sub) * j.width; p++) {
            float* q = sums.data() + (long)p * TILE_H * TILE_W;
            if (whole) std::fill(q, q + (w.y1 - w.y0) * TILE_W, j.biases[sub * j.width + p]);
            else for (int y = w.y0; y < w.y1; y++)
                memcpy(q + (y - w.y0) * TILE_W, plane(channel_of(sub) + p) + y * j.row_stride + w.x0, 4 * (w.x1 - w.x0));
        }
        for (int o = 0; with_output && o < j.out_channels; o++)
            for (int y = w.y0; y < w.y1; y++)
                for (int x = w.x0; x < std::min(w.x1, j.image_width); x++)
                    j.out[((long)o * j.height + y) * j.image_width + x] = j.final_bias[o];
    }

    void pack(long c0, int channels, int y0, int h, int x0) {
        for (int c = 0; c < channels; c++)
            for (int y = -halo; y < h + halo; y++) {
                const float* p = plane(c0 + c) + (y0 + y) * j.row_stride + x0 - margin;
                float* q = packed.data() + ((long)c * packed_h + y + halo) * packed_w;
                for (int x = 0; x < packed_w; x += VL) store(q + x, load(p + x));
            }
    }

    Prefetcher following(int sub, bool whole, long c, long c1, int groups_left, Window w) const {
        int x = w.x0;
        int channels = groups_left ? (c1 - c) / groups_left : 0;
        if (!groups_left) {  // the first group of the window to the right
            c = whole ? 0 : channel_of(sub - sh.sub_block);
            x += TILE_W;
            channels = x < j.padded_width ? std::min<long>(PACKED, c1 - c) : 0;
        }
        return {plane(c) + (w.y0 - halo) * j.row_stride + x - margin, j.plane_stride, j.row_stride, channels, 0,
                w.y1 - w.y0 + 2 * halo, packed_w};
    }

    // The sequential part: what the sub-block's own layers give to this one, then the ReLU and the borders.
    void finish(int sub, int layer, int ty, int tx) {
        Window w = window(layer, ty, tx, j.padded_width);
        if (w.y1 <= w.y0 || w.x1 <= w.x0) return;
        long c0 = channel_of(sub), c = channel_of(layer), at = w.y0 * j.row_stride + w.x0;
        Prefetcher none = {};
        for (int k = 0; k < j.width; k += MOST_PLANES) {
            int planes = std::min(MOST_PLANES, j.width - k);
            const float* weight[3];
            float* s[3];
            for (int n = 0; n < planes; n++) {
                weight[n] = j.weights + j.offsets[layer] + 9 * (c * (k + n) + c0);
                s[n] = plane(c + k + n) + at;
            }
            convolve(ALONE, planes, plane(c0) + at, j.plane_stride, c - c0, j.row_stride, j.dilations[layer], weight, s,
                     j.row_stride, w.y1 - w.y0, (w.x1 - w.x0) / VL, true, none);
        }
        for (int k = 0; k < j.width; k++) fill_margins(j, plane(c + k), w);
    }

    void output_from_packed(long c0, int channels, Window w) {
        float row[TILE_W];
        for (int o = 0; o < j.out_channels; o++)
            for (int y = w.y0; y < w.y1; y++) {
                const float* f = j.final + o * sh.planes + c0;
                const float* p = packed.data() + (long)(halo + y - w.y0) * packed_w + margin;
                for (int x = 0; x < w.x1 - w.x0; x += VL) {
                    vec a = {};
                    for (int c = 0; c < channels; c++) a += f[c] * load(p + (long)c * packed_h * packed_w + x);
                    store(row + x, a);
                }
                float* q = j.out + ((long)o * j.height + y) * j.image_width + w.x0;
                for (int x = 0; x < std::min(w.x1, j.image_width) - w.x0; x++) q[x] += row[x];
            }
    }

    void output(int first, Window w) {
        for (int y = w.y0; y < w.y1; y++)
            for (int o = 0; o < j.out_channels; o++)
                for (int x = w.x0; x < w.x1; x += VL) {
                    vec a = {};
                    for (long c = channel_of(first); c < sh.planes; c++)
                        a += j.final[o * sh.planes + c] * load(plane(c) + y * j.row_stride + x);
                    float row[VL];
                    store(row, a);
                    float* q = j.out + ((long)o * j.height + y) * j.image_width + x;
                    for (int k = 0; k < std::min(VL, w.x1 - x); k++) q[k] += row[k];
                }
    }
};

static void work(const Job& job, Shared& shared) { Worker(job, shared).run(); }

// Nothing but fused multiply-adds, twelve independent chains: what the evaluation is measured against.
static float multiply_add(long times) {
    vec a[12], k = vec{} + 0.5f;
    for (int i = 0; i < 12; i++) a[i] = vec{} + (float)i;
    for (long n = 0; n < times; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) FUSED_MULTIPLY_ADD(a[i], k, k);
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += a[i][0];
    return sum;
}

}  // namespace SWEEP
