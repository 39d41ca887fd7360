// The products themselves. grouped.cpp includes this file once for each instruction set, inside a namespace of that name
// and with the compiler's target options set; MOESAIC_MAX_ROWS says how many rows of accumulators the registers hold.
//
// Vectors hold 16 floats (the compiler splits them where registers are shorter). A "word" is what one lane of one
// multiply-add takes of an operand: a float, or two bfloat16 that are neighbours along the summed axis. Both operands of
// the inner kernel are arrays of words, so that one kernel serves both types:
//
//   left   (row, word)   each row contiguous, or packed with neighbouring rows side by side
//   right  (word, 32)    a "panel" of 32 columns, packed here from whatever order the weights have in memory

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x16_any __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16_any __attribute__((vector_size(64), aligned(2), may_alias));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x32_any __attribute__((vector_size(64), aligned(2), may_alias));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x16_any __attribute__((vector_size(32), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE f32x16 splat(float value) { return f32x16{} + value; }

// ---------------------------------------------------------------------------------------------- reading and writing

INLINE u32x16 widen(u16x16 halves) { return __builtin_convertvector(halves, u32x16); }

// Round to the nearest bfloat16, ties to even; a NaN stays one.
INLINE u16x16 to_bfloat16(f32x16 value) {
#ifdef MOESAIC_HAS_BF16
    return (u16x16)_mm512_cvtneps_pbh((__m512)value);
#else
    u32x16 bits = (u32x16)value;
    u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u32x16 quiet = (bits >> 16) | 0x40;
    u32x16 is_nan = (u32x16)((bits & 0x7fffffff) > (u32x16{} + 0x7f800000));
    return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), u16x16);
#endif
}

INLINE f32x16 from_float16(u16x16 halves) {
#if defined(MOESAIC_HAS_AVX512)
    return (f32x16)_mm512_cvtph_ps((__m256i)halves);
#else
    // Move exponent and mantissa into place, then correct the exponent by a multiplication; that is exact, for
    // subnormal numbers too. Infinity and NaN get their exponent back by hand.
    u32x16 wide = widen(halves);
    u32x16 magnitude = (wide & 0x7fff) << 13;
    u32x16 special = (u32x16)(magnitude >= (u32x16{} + 0x0f800000));
    u32x16 scaled = (u32x16)((f32x16)magnitude * 0x1p112f);
    return (f32x16)(((scaled & ~special) | ((magnitude | 0x7f800000) & special)) | ((wide & 0x8000) << 16));
#endif
}

INLINE u16x16 to_float16(f32x16 value) {
#if defined(MOESAIC_HAS_AVX512)
    return (u16x16)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    u16x16 halves;
    for (int lane = 0; lane < 16; ++lane) halves[lane] = float16_bits(value[lane]);
    return halves;
#endif
}

INLINE f32x16 load(const void* source, int type) {
    if (type == FLOAT32) return *(const f32x16_any*)source;
    u16x16 halves = *(const u16x16_any*)source;
    return type == BFLOAT16 ? (f32x16)(widen(halves) << 16) : from_float16(halves);
}

INLINE void store(f32x16 value, void* target, int type) {
    if (type == FLOAT32) *(f32x16_any*)target = value;
    else *(u16x16_any*)target = type == BFLOAT16 ? to_bfloat16(value) : to_float16(value);
}

// The same for the first `count` elements; reads and writes nothing beyond them.
INLINE f32x16 load_part(const void* source, int type, int64_t count) {
    if (count >= 16) return load(source, type);
    uint32_t room[16] = {};
    if (count > 0) __builtin_memcpy(room, source, count * size_of(type));
    return load(room, type);
}

INLINE void store_part(f32x16 value, void* target, int type, int64_t count) {
    if (count >= 16) return store(value, target, type);
    uint32_t room[16];
    store(value, room, type);
    if (count > 0) __builtin_memcpy(target, room, count * size_of(type));
}

// Write 32 elements to memory without reading the cache lines first: for what will not be read soon.
INLINE void store_past_cache(f32x16 first, f32x16 second, void* target, int type) {
#if defined(MOESAIC_HAS_AVX512)
    if (type == FLOAT32) {
        _mm512_stream_ps((float*)target, (__m512)first);
        _mm512_stream_ps((float*)target + 16, (__m512)second);
        return;
    }
    uint16_t room[32] __attribute__((aligned(64)));
    store(first, room, type);
    store(second, room + 16, type);
    _mm512_stream_si512((__m512i*)target, *(__m512i*)room);
#else
    store(first, target, type);
    store(second, (char*)target + 16 * size_of(type), type);
#endif
}

INLINE f32x16 multiply_add_words(u32x16 left, u32x16 right, f32x16 sum, [[maybe_unused]] bool pairs) {
#ifdef MOESAIC_HAS_BF16
    if (pairs) return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)right, (__m512bh)left);
#endif
    return (f32x16)left * (f32x16)right + sum;
}

// 16 words of one row: 16 floats, or 32 bfloat16 of which pairs make a word. `count` elements are left in the row.
INLINE u32x16 load_words(const void* source, int type, int64_t count, bool pairs) {
    if (!pairs) return (u32x16)load_part(source, type, count);
#ifdef MOESAIC_HAS_BF16
    if (type == BFLOAT16) {
        if (count >= 32) return *(const u32x16_any*)source;
        u32x16 room = {};
        if (count > 0) __builtin_memcpy(&room, source, count * 2);
        return room;
    }
    f32x16 low = load_part(source, type, count);
    f32x16 high = load_part((const char*)source + 16 * size_of(type), type, count - 16);
    return (u32x16)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
    return u32x16{};
#endif
}

// ------------------------------------------------------------------------------------------------- gather and pack

// Copy rows and convert them to words; what stands behind the last element up to `stride` words is zero.
static void gather_rows(const Rows& rows, int64_t first, int64_t count, int64_t length, bool pairs, uint32_t* target,
                        int64_t stride) {
    int64_t step = pairs ? 32 : 16;
    for (int64_t row = 0; row < count; ++row) {
        const char* source = rows.row(first + row);
        if (row + 2 < count) __builtin_prefetch(rows.row(first + row + 2));
        uint32_t* out = target + row * stride;
        for (int64_t k = 0; k < length; k += step, out += 16)
            *(u32x16_any*)out = load_words(source + k * size_of(rows.type), rows.type, length - k, pairs);
    }
}

INLINE u32x16 take_even(u32x16 a, u32x16 b, int step) {
    switch (step) {
        case 1: return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        case 2: return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        case 4: return __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        default: return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    }
}

INLINE u32x16 take_odd(u32x16 a, u32x16 b, int step) {
    switch (step) {
        case 1: return __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
        case 2: return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        case 4: return __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        default: return __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
}

template <int STEP>
INLINE void exchange(u32x16 (&rows)[16]) {
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row) {
        if (row & STEP) continue;
        u32x16 a = rows[row], b = rows[row + STEP];
        rows[row] = take_even(a, b, STEP);
        rows[row + STEP] = take_odd(a, b, STEP);
    }
}

INLINE void transpose(u32x16 (&rows)[16]) {
    exchange<1>(rows);
    exchange<2>(rows);
    exchange<4>(rows);
    exchange<8>(rows);
}

// 16 words of each of 16 columns whose summed axis is contiguous. WHOLE: all of them exist.
template <bool PAIRS, bool WHOLE>
INLINE void pack_square(const char* source, int type, int64_t column_bytes, int64_t columns, int64_t left,
                        uint32_t* target) {
    u32x16 block[16];
#pragma GCC unroll 16
    for (int column = 0; column < 16; ++column) {
        const char* place = source + column * column_bytes;
        if (WHOLE) block[column] = load_words(place, type, 32, PAIRS);
        else block[column] = column < columns ? load_words(place, type, left, PAIRS) : u32x16{};
    }
    transpose(block);
    const int64_t words = words_of(left, PAIRS);
#pragma GCC unroll 16
    for (int word = 0; word < 16; ++word)
        if (WHOLE || word < words) *(u32x16_any*)(target + word * PANEL) = block[word];
}

template <int TYPE, bool PAIRS>
static void pack_squares(const char* source, int64_t column_bytes, int64_t columns, int64_t length, uint32_t* target) {
    constexpr int64_t step = PAIRS ? 32 : 16, size = TYPE == FLOAT32 ? 4 : 2;
    for (int64_t k = 0; k < length; k += step, source += step * size, target += 16 * PANEL) {
        if (columns == 16 && k + step <= length) pack_square<PAIRS, true>(source, TYPE, column_bytes, 16, step, target);
        else pack_square<PAIRS, false>(source, TYPE, column_bytes, columns, length - k, target);
    }
}

// Pack 16 columns whose summed axis is contiguous in memory into one half of a panel.
static void pack_rows_as_columns(const char* source, int type, int64_t column_stride, int64_t columns, int64_t length,
                                 [[maybe_unused]] bool pairs, uint32_t* target) {
    int64_t column_bytes = column_stride * size_of(type);
#ifdef MOESAIC_HAS_BF16
    if (pairs) {
        switch (type) {
            case FLOAT32: return pack_squares<FLOAT32, true>(source, column_bytes, columns, length, target);
            case BFLOAT16: return pack_squares<BFLOAT16, true>(source, column_bytes, columns, length, target);
            default: return pack_squares<FLOAT16, true>(source, column_bytes, columns, length, target);
        }
    }
#endif
    switch (type) {
        case FLOAT32: return pack_squares<FLOAT32, false>(source, column_bytes, columns, length, target);
        case BFLOAT16: return pack_squares<BFLOAT16, false>(source, column_bytes, columns, length, target);
        default: return pack_squares<FLOAT16, false>(source, column_bytes, columns, length, target);
    }
}

// Pack 16 neighbouring columns of rows that lie along the summed axis; word w goes to target + w * stride.
static void pack_columns(const Rows& rows, int64_t first_row, int64_t num_rows, int64_t first_column, int64_t columns,
                         bool pairs, uint32_t* target, int64_t stride) {
    int size = size_of(rows.type);
    if (!pairs) {
        for (int64_t k = 0; k < num_rows; ++k, target += stride)
            *(f32x16_any*)target = load_part(rows.row(first_row + k) + first_column * size, rows.type, columns);
        return;
    }
    for (int64_t k = 0; k < num_rows; k += 2, target += stride) {
        const char* even = rows.row(first_row + k) + first_column * size;
        const char* odd = k + 1 < num_rows ? rows.row(first_row + k + 1) + first_column * size : nullptr;
        u16x16 low, high = {};
        if (rows.type == BFLOAT16 && columns >= 16) {
            low = *(const u16x16_any*)even;
            if (odd) high = *(const u16x16_any*)odd;
        } else {
            low = to_bfloat16(load_part(even, rows.type, columns));
            if (odd) high = to_bfloat16(load_part(odd, rows.type, columns));
        }
        *(u32x16_any*)target = widen(low) | (widen(high) << 16);
    }
}

// Pack 32 neighbouring columns: a whole panel, or two neighbours of a left operand.
static void pack_two_columns(const Rows& rows, int64_t first_row, int64_t num_rows, int64_t first_column, int64_t columns,
                             bool pairs, uint32_t* target, int64_t stride) {
    if (!pairs || rows.type != BFLOAT16 || columns < 32) {
        for (int half = 0; half < 32; half += 16)
            pack_columns(rows, first_row, num_rows, columns > half ? first_column + half : 0, columns - half, pairs,
                         target + half, stride);
        return;
    }
    for (int64_t k = 0; k < num_rows; k += 2, target += stride) {
        u16x32 even = *(const u16x32_any*)(rows.row(first_row + k) + first_column * 2), odd = {};
        if (k + 1 < num_rows) odd = *(const u16x32_any*)(rows.row(first_row + k + 1) + first_column * 2);
        *(u16x32_any*)target = __builtin_shufflevector(even, odd, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
                                                       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
        *(u16x32_any*)(target + 16) =
            __builtin_shufflevector(even, odd, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25,
                                    57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
    }
}

// One half of a panel: columns first ... first + 15 of one expert's matrix.
static void pack_half(const Matrix& matrix, int64_t expert, int64_t first, bool pairs, uint32_t* target) {
    int64_t columns = matrix.columns - first < 16 ? matrix.columns - first : 16;
    const char* source = matrix.data(expert);
    int size = size_of(matrix.type);
    if (matrix.sum_stride == 1) {
        pack_rows_as_columns(source + first * matrix.column_stride * size, matrix.type, matrix.column_stride, columns,
                             matrix.length, pairs, target);
    } else {
        Rows rows{source, matrix.type, matrix.sum_stride, nullptr};
        pack_columns(rows, 0, matrix.length, first, columns, pairs, target, PANEL);
    }
}

// A whole panel of columns that stand side by side.
static void pack_panel(const Matrix& matrix, int64_t expert, int64_t first, bool pairs, uint32_t* target) {
    if (matrix.sum_stride == 1) {
        pack_half(matrix, expert, first, pairs, target);
        pack_half(matrix, expert, first + 16, pairs, target + 16);
    } else {
        Rows rows{matrix.data(expert), matrix.type, matrix.sum_stride, nullptr};
        pack_two_columns(rows, 0, matrix.length, first, matrix.columns - first, pairs, target, PANEL);
    }
}

// The lines of memory that hold panels still to be packed, in the order in which they are fetched ahead.
class Ahead {
public:
    // Half a panel: up to 16 columns from `first` on.
    void add(const Matrix& matrix, int64_t expert, int64_t first) {
        if (count_ == MOST || first >= matrix.columns) return;
        int size = size_of(matrix.type);
        int64_t columns = matrix.columns - first < 16 ? matrix.columns - first : 16;
        const char* start = matrix.data(expert) + first * matrix.column_stride * size;
        if (matrix.sum_stride == 1) parts_[count_++] = {start, 64, columns * matrix.column_stride * size / 64};
        else parts_[count_++] = {start, matrix.sum_stride * size, matrix.length};
    }
    // Where the next `lines` lines begin, and how far apart they are; 0 when there are none.
    const char* take(int64_t lines, int64_t& step) {
        while (next_ < count_ && parts_[next_].lines <= 0) ++next_;
        step = 0;
        if (next_ == count_) return nullptr;
        Part& part = parts_[next_];
        const char* place = part.place;
        step = part.step;
        part.place += lines * step;
        part.lines -= lines;
        return place;
    }
    void clear() { count_ = next_ = 0; }

private:
    struct Part { const char* place; int64_t step, lines; };
    static constexpr int MOST = 8;
    Part parts_[MOST];
    int count_ = 0, next_ = 0;
};

// --------------------------------------------------------------------------------------------------- inner kernels

// sums[row][0..31] = left[row][:] . panel[:][0..31]. A long sum is cut into pieces that are added up afterwards: that
// keeps rounding errors in float32 below 1e-6.
//
// Meanwhile the weights that will be packed next are fetched, a cache line for each word: `ahead`, `ahead + step`, ...
template <int ROWS, bool PAIRS, bool CONTIGUOUS>
INLINE void multiply_piece(const uint32_t* left, int64_t stride, const uint32_t* panel, int64_t words,
                           f32x16 (&sum)[ROWS][2], const char*& ahead, int64_t step) {
    // Three rows share a pointer, since an address is base + 0, 1 or 2 strides.
    const uint32_t* pointers[(ROWS + 2) / 3];
    for (int group = 0; group < (ROWS + 2) / 3; ++group) pointers[group] = left + group * 3 * (CONTIGUOUS ? stride : 1);
#pragma GCC unroll 2
    for (int64_t word = 0; word < words; ++word, panel += PANEL) {
        u32x16 right0 = *(const u32x16_any*)panel;
        u32x16 right1 = *(const u32x16_any*)(panel + 16);
        if (CONTIGUOUS) {
            __builtin_prefetch(ahead, 0, 2);
            ahead += step;
        }
#pragma GCC unroll 14
        for (int row = 0; row < ROWS; ++row) {
            uint32_t value = pointers[row / 3][(row % 3) * (CONTIGUOUS ? stride : 1)];
            u32x16 left_word = u32x16{} + value;
            sum[row][0] = multiply_add_words(left_word, right0, sum[row][0], PAIRS);
            sum[row][1] = multiply_add_words(left_word, right1, sum[row][1], PAIRS);
        }
#pragma GCC unroll 5
        for (int group = 0; group < (ROWS + 2) / 3; ++group) pointers[group] += CONTIGUOUS ? 1 : stride;
    }
}

constexpr int64_t PIECE = 256;

template <int ROWS, bool PAIRS, bool CONTIGUOUS>
static __attribute__((noinline)) void multiply_panel(const uint32_t* left, int64_t stride, const uint32_t* panel,
                                                     int64_t words, float* sums, const char* ahead, int64_t step) {
    for (int64_t done = 0; done < words; done += PIECE) {
        f32x16 sum[ROWS][2] = {};
        multiply_piece<ROWS, PAIRS, CONTIGUOUS>(left + done * (CONTIGUOUS ? 1 : stride), stride, panel + done * PANEL,
                                                words - done < PIECE ? words - done : PIECE, sum, ahead, step);
#pragma GCC unroll 14
        for (int row = 0; row < ROWS; ++row) {
            f32x16_any* out = (f32x16_any*)(sums + row * PANEL);
            if (done) sum[row][0] += out[0], sum[row][1] += out[1];
            out[0] = sum[row][0];
            out[1] = sum[row][1];
        }
    }
}

// The same for a short sum, which goes from the registers to where it belongs.
template <int ROWS, bool PAIRS>
static __attribute__((noinline)) void multiply_panel_into(const uint32_t* left, int64_t stride, const uint32_t* panel,
                                                          int64_t words, char* out, int64_t out_bytes, int type,
                                                          bool past_cache) {
    f32x16 sum[ROWS][2] = {};
    const char* ahead = nullptr;
    multiply_piece<ROWS, PAIRS, false>(left, stride, panel, words, sum, ahead, 0);
#pragma GCC unroll 14
    for (int row = 0; row < ROWS; ++row, out += out_bytes) {
        if (past_cache) {
            store_past_cache(sum[row][0], sum[row][1], out, type);
        } else {
            store(sum[row][0], out, type);
            store(sum[row][1], out + 16 * size_of(type), type);
        }
    }
}

typedef void (*MultiplyPanel)(const uint32_t*, int64_t, const uint32_t*, int64_t, float*, const char*, int64_t);
typedef void (*MultiplyPanelInto)(const uint32_t*, int64_t, const uint32_t*, int64_t, char*, int64_t, int, bool);

#if MOESAIC_MAX_ROWS > 3
#define FOR_ALL_ROWS(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14)
#else
#define FOR_ALL_ROWS(F) F(1) F(2) F(3)
#endif

template <bool PAIRS, bool CONTIGUOUS>
static MultiplyPanel panel_kernel(int64_t rows) {
#define CASE(N) if (rows == N) return multiply_panel<N, PAIRS, CONTIGUOUS>;
    FOR_ALL_ROWS(CASE)
#undef CASE
    return nullptr;
}

template <bool PAIRS>
static MultiplyPanelInto panel_kernel_into(int64_t rows) {
#define CASE(N) if (rows == N) return multiply_panel_into<N, PAIRS>;
    FOR_ALL_ROWS(CASE)
#undef CASE
    return nullptr;
}
#undef FOR_ALL_ROWS

INLINE MultiplyPanel choose_kernel(int64_t rows, [[maybe_unused]] bool pairs, bool contiguous) {
#ifdef MOESAIC_HAS_BF16
    if (pairs) return contiguous ? panel_kernel<true, true>(rows) : panel_kernel<true, false>(rows);
#endif
    return contiguous ? panel_kernel<false, true>(rows) : panel_kernel<false, false>(rows);
}

INLINE MultiplyPanelInto choose_kernel_into(int64_t rows, [[maybe_unused]] bool pairs) {
#ifdef MOESAIC_HAS_BF16
    if (pairs) return panel_kernel_into<true>(rows);
#endif
    return panel_kernel_into<false>(rows);
}

// Rows of the next group when `left` remain: as equal as possible, so that no small remainder is left over.
INLINE int64_t group_rows(int64_t left) {
    int64_t groups = (left + MOESAIC_MAX_ROWS - 1) / MOESAIC_MAX_ROWS;
    return (left + groups - 1) / groups;
}

// Dot products of a few rows with 4 columns that are contiguous in memory, without packing: each weight is read once,
// as fast as memory gives it. rows: (ROWS, stride) words.
template <int ROWS>
static void dot_columns(const uint32_t* rows, int64_t stride, const char* const columns[4], int type, int64_t length,
                        bool pairs, float (&sums)[ROWS][4]) {
    f32x16 sum[ROWS][4] = {};
    int64_t step = pairs ? 32 : 16, k = 0;
    int size = size_of(type);
    // The columns that come next, 8 KB or a little more away.
    const int64_t four = 4 * (columns[1] - columns[0]), ahead = four > 0 ? (24575 + four) / four * four : 1024;
    for (; k + step <= length; k += step, rows += 16) {
#pragma GCC unroll 4
        for (int column = 0; column < 4; ++column) {
            u32x16 weights = load_words(columns[column] + k * size, type, step, pairs);
            __builtin_prefetch(columns[column] + k * size + ahead, 0, 2);
#pragma GCC unroll 6
            for (int row = 0; row < ROWS; ++row) {
                u32x16 words = *(const u32x16_any*)(rows + row * stride);
                sum[row][column] = multiply_add_words(words, weights, sum[row][column], pairs);
            }
        }
    }
    if (k < length) {
        for (int column = 0; column < 4; ++column) {
            u32x16 weights = load_words(columns[column] + k * size, type, length - k, pairs);
            for (int row = 0; row < ROWS; ++row) {
                u32x16 words = *(const u32x16_any*)(rows + row * stride);
                sum[row][column] = multiply_add_words(words, weights, sum[row][column], pairs);
            }
        }
    }
    for (int row = 0; row < ROWS; ++row)
        for (int column = 0; column < 4; ++column) {
            f32x16 lanes = sum[row][column];
            lanes += __builtin_shufflevector(lanes, lanes, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
            lanes += __builtin_shufflevector(lanes, lanes, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
            lanes += __builtin_shufflevector(lanes, lanes, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
            sums[row][column] = lanes[0] + lanes[1];
        }
}

// Dot products of any number of rows with 4 columns.
static void dot(const uint32_t* rows, int64_t stride, int64_t count, const char* const columns[4], int type,
                int64_t length, bool pairs, float (*sums)[4]) {
    while (count > 0) {
        int64_t group = count > 6 ? (count + (count + 5) / 6 - 1) / ((count + 5) / 6) : count;
        switch (group) {
#define CASE(N) \
    case N: dot_columns<N>(rows, stride, columns, type, length, pairs, *(float(*)[N][4])sums); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
        }
        rows += group * stride, sums += group, count -= group;
    }
}

// -------------------------------------------------------------------------------------------------------- SwiGLU

INLINE f32x16 reciprocal(f32x16 value, [[maybe_unused]] bool precise) {
#if defined(MOESAIC_HAS_AVX512)
    f32x16 guess = (f32x16)_mm512_rcp14_ps((__m512)value);
    return precise ? guess * (2.0f - value * guess) : guess;
#else
    return 1.0f / value;
#endif
}

// e^x by 2^n times a polynomial on half a bit to each side (Cephes' coefficients); relative error 1e-7.
INLINE f32x16 exponential(f32x16 x, bool precise) {
    f32x16 low = splat(-87.3f), high = splat(88.7f);
    u32x16 below = (u32x16)(x < low), above = (u32x16)(x > high);
    x = (f32x16)(((u32x16)x & ~(below | above)) | ((u32x16)low & below) | ((u32x16)high & above));
    f32x16 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer is in the lowest bits
    f32x16 n = shifted - 12582912.0f;
    x = x - n * 0.693359375f;
    x = x + n * 2.12194440e-4f;
    f32x16 polynomial = splat(4.1665795894e-2f);
    if (precise) {
        polynomial = ((x * 1.9875691500e-4f + 1.3981999507e-3f) * x + 8.3334519073e-3f) * x + 4.1665795894e-2f;
    }
    polynomial = (polynomial * x + 1.6666665459e-1f) * x + 5.0000001201e-1f;
    f32x16 result = polynomial * (x * x) + x + 1.0f;
    return (f32x16)((u32x16)result + ((u32x16)shifted << 23));
}

// 1 / (1 + e^-x)
INLINE f32x16 sigmoid(f32x16 x, bool precise) { return reciprocal(1.0f + exponential(-x, precise), precise); }

// --------------------------------------------------------------------------------------------- rows from tokens

// What becomes of the sums of 32 columns of one row. WHOLE: all 32 columns exist.
template <int EPILOGUE, int TYPE, bool WHOLE>
INLINE void finish_row(const RowsFromTokens& call, int64_t row, int64_t first, f32x16 sum0, f32x16 sum1,
                       float* weight_gradient_lanes) {
    constexpr int size = TYPE == FLOAT32 ? 4 : 2;
    constexpr bool precise = TYPE == FLOAT32;
    if (EPILOGUE == PLAIN) {
        char* out = call.rows_out + (row * call.row_stride + first) * size;
        int64_t left = WHOLE ? PANEL : call.matrix.columns - first;
        store_part(sum0, out, TYPE, left);
        store_part(sum1, out + 16 * size, TYPE, left - 16);
        return;
    }
    float weight = call.weights[call.order[row]];
    if (EPILOGUE == SWIGLU) {  // sum0: 16 columns of the gate, sum1: the same of the up projection
        int64_t half = call.matrix.columns / 2, left = WHOLE ? 16 : half - first;
        if (call.rows_out) {
            char* out = call.rows_out + (row * call.row_stride + first) * size;
            store_part(sum0, out, TYPE, left);
            store_part(sum1, out + half * size, TYPE, left);
        }
        f32x16 activation = sum0 * sigmoid(sum0, precise) * sum1 * weight;
        store_part(activation, call.activations + (row * call.activation_stride + first) * size, TYPE, left);
        return;
    }
    // SWIGLU_GRADIENT: the sums are the gradient of the activation, before the routing weight.
    int64_t half = call.matrix.columns;
    f32x16 sums[2] = {sum0, sum1};
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
        int64_t column = first + part * 16, left = WHOLE ? 16 : half - column;
        if (left <= 0) break;
        const char* pre = call.pre_activations + (row * 2 * half + column) * size;
        f32x16 gate = load_part(pre, TYPE, left), up = load_part(pre + half * size, TYPE, left);
        f32x16 share = sigmoid(gate, precise), silu = gate * share, activation = silu * up;
        if (weight_gradient_lanes) *(f32x16_any*)weight_gradient_lanes += sums[part] * activation;
        f32x16 gradient = sums[part] * weight;
        if (call.activations) {
            char* out = call.activations + (row * call.activation_stride + column) * size;
            store_part(activation * weight, out, TYPE, left);
        }
        if (call.rows_out) {
            char* out = call.rows_out + (row * call.row_stride + column) * size;
            store_part(gradient * up * (share + silu * (1.0f - share)), out, TYPE, left);
            store_part(gradient * silu, out + half * size, TYPE, left);
        }
    }
}

// The sums of some rows, (row, 32), of which `lanes` collects the gradient of the routing weight, (row, 16).
template <int EPILOGUE, int TYPE>
INLINE void finish_rows_of(const RowsFromTokens& call, int64_t row, int64_t count, int64_t first, const float* sums,
                           float* lanes) {
    const bool whole = EPILOGUE == SWIGLU ? first + 16 <= call.matrix.columns / 2 : first + 32 <= call.matrix.columns;
    for (int64_t r = 0; r < count; ++r, sums += PANEL, lanes = lanes ? lanes + 16 : nullptr) {
        f32x16 sum0 = *(const f32x16_any*)sums, sum1 = *(const f32x16_any*)(sums + 16);
        if (whole) finish_row<EPILOGUE, TYPE, true>(call, row + r, first, sum0, sum1, lanes);
        else finish_row<EPILOGUE, TYPE, false>(call, row + r, first, sum0, sum1, lanes);
    }
}

template <int TYPE>
static void finish_rows_in(const RowsFromTokens& call, int64_t row, int64_t count, int64_t first, const float* sums,
                           float* lanes) {
    switch (call.epilogue) {
        case PLAIN: return finish_rows_of<PLAIN, TYPE>(call, row, count, first, sums, lanes);
        case SWIGLU: return finish_rows_of<SWIGLU, TYPE>(call, row, count, first, sums, lanes);
        default: return finish_rows_of<SWIGLU_GRADIENT, TYPE>(call, row, count, first, sums, lanes);
    }
}

static void finish_rows(const RowsFromTokens& call, int64_t row, int64_t count, int64_t first, const float* sums,
                        float* lanes) {
    switch (call.row_type) {
        case FLOAT32: return finish_rows_in<FLOAT32>(call, row, count, first, sums, lanes);
        case BFLOAT16: return finish_rows_in<BFLOAT16>(call, row, count, first, sums, lanes);
        default: return finish_rows_in<FLOAT16>(call, row, count, first, sums, lanes);
    }
}

// Columns of the matrix that stand in the two halves of panel `panel`.
INLINE void panel_columns(const RowsFromTokens& call, int64_t panel, int64_t (&first)[2]) {
    bool paired = call.epilogue == SWIGLU;
    first[0] = panel * (paired ? 16 : PANEL);
    first[1] = paired ? call.matrix.columns / 2 + first[0] : first[0] + 16;
}

// 4 columns of a matrix that are contiguous in memory; the last one again where there are fewer before `end`.
INLINE void four_columns(const Matrix& matrix, int64_t expert, int64_t first, int64_t end, const char* (&columns)[4]) {
    for (int64_t column = 0; column < 4; ++column) {
        int64_t place = first + column < end ? first + column : end - 1;
        columns[column] = matrix.data(expert) + place * matrix.column_stride * size_of(matrix.type);
    }
}

static void few_rows_from_tokens(const RowsFromTokens& call, const RowTask& task, const uint32_t* left, int64_t stride,
                                 bool pairs, float* lanes) {
    const Matrix& matrix = call.matrix;
    float sums[FEW_ROWS * PANEL] __attribute__((aligned(64))) = {};  // (row, half of the panel, 16)
    float quads[FEW_ROWS][4];
    for (int64_t panel = task.first_panel; panel < task.end_panel; ++panel) {
        int64_t first[2];
        panel_columns(call, panel, first);
        for (int half = 0; half < 2; ++half) {
            const int64_t end = call.epilogue == SWIGLU ? (half + 1) * (matrix.columns / 2) : matrix.columns;
            for (int64_t quad = 0; quad < 16 && first[half] + quad < end; quad += 4) {
                const char* columns[4];
                four_columns(matrix, task.expert, first[half] + quad, end, columns);
                dot(left, stride, task.num_rows, columns, matrix.type, matrix.length, pairs, quads);
                for (int64_t row = 0; row < task.num_rows; ++row)
                    __builtin_memcpy(sums + row * PANEL + half * 16 + quad, quads[row], sizeof(quads[row]));
            }
        }
        finish_rows(call, task.first_row, task.num_rows, first[0], sums, lanes);
    }
}

static void many_rows_from_tokens(const RowsFromTokens& call, const RowTask& task, const uint32_t* left, int64_t stride,
                                  bool pairs, float* lanes) {
    const Matrix& matrix = call.matrix;
    const int64_t words = words_of(matrix.length, pairs), panel_words = words * PANEL;
    const int64_t together = panels_together(panel_words), columns_per_panel = call.epilogue == SWIGLU ? 16 : PANEL;
    uint32_t* packed = this_thread_arena().take<uint32_t>(panel_words * together);
    float sums[MOESAIC_MAX_ROWS * PANEL] __attribute__((aligned(64)));
    Ahead ahead;
    for (int64_t panel = task.first_panel; panel < task.end_panel; panel += together) {
        const int64_t count = task.end_panel - panel < together ? task.end_panel - panel : together;
        for (int64_t index = 0; index < count; ++index) {
            int64_t first[2];
            panel_columns(call, panel + index, first);
            uint32_t* target = packed + index * panel_words;
            if (call.epilogue != SWIGLU) pack_panel(matrix, task.expert, first[0], pairs, target);
            else
                for (int half = 0; half < 2; ++half) pack_half(matrix, task.expert, first[half], pairs, target + half * 16);
        }
        ahead.clear();
        for (int64_t next = panel + together; next < task.end_panel && next < panel + 2 * together; ++next) {
            int64_t first[2];
            panel_columns(call, next, first);
            for (int half = 0; half < 2; ++half) ahead.add(matrix, task.expert, first[half]);
        }
        for (int64_t row = 0, rows; row < task.num_rows; row += rows) {
            rows = group_rows(task.num_rows - row);
            MultiplyPanel multiply = choose_kernel(rows, pairs, true);
            for (int64_t index = 0; index < count; ++index) {
                int64_t step;
                const char* lines = ahead.take(words, step);
                multiply(left + row * stride, stride, packed + index * panel_words, words, sums, lines, step);
                finish_rows(call, task.first_row + row, rows, (panel + index) * columns_per_panel, sums,
                            lanes ? lanes + row * 16 : nullptr);
            }
        }
    }
}

static void rows_from_tokens_task(const RowsFromTokens& call, const RowTask& task) {
    Arena& arena = this_thread_arena();
    arena.reset();
    const Matrix& matrix = call.matrix;
    const bool few = task.num_rows <= FEW_ROWS && matrix.sum_stride == 1;
    const bool pairs = call.pairs && (!few || matrix.type == BFLOAT16);
    const int64_t stride = row_stride(words_of(matrix.length, pairs));
    uint32_t* left = arena.take<uint32_t>(task.num_rows * stride);
    gather_rows(call.tokens, task.first_row, task.num_rows, matrix.length, pairs, left, stride);
    // 16 partial sums of each row's gradient of the routing weight.
    float* lanes = call.weight_gradient_parts ? arena.take<float>(task.num_rows * 16) : nullptr;
    if (lanes) __builtin_memset(lanes, 0, task.num_rows * 16 * sizeof(float));
    (few ? few_rows_from_tokens : many_rows_from_tokens)(call, task, left, stride, pairs, lanes);
    for (int64_t row = 0; lanes && row < task.num_rows; ++row) {
        float sum = 0;
        for (int lane = 0; lane < 16; ++lane) sum += lanes[row * 16 + lane];
        call.weight_gradient_parts[(task.first_row + row) * call.num_parts + task.part] = sum;
    }
}

// --------------------------------------------------------------------------------------------- tokens from rows

// What a task of tokens_from_rows works with: its columns, its tokens' sums, (token, width), and room to pack.
struct TokenSums {
    const TokensFromRows& call;
    const TokenTask& task;
    int64_t first_column, num_panels, width;
    float* sums;
    uint32_t *packed, *gathered;
    float* of_row(int64_t row) const { return sums + (call.token_of_row[row] - task.first_token) * width; }
};

static void add_few_rows(const TokenSums& tokens, int64_t expert, int64_t begin, int64_t end) {
    const Matrix& matrix = tokens.call.matrix;
    const bool pairs = tokens.call.pairs && matrix.type == BFLOAT16;
    const int64_t stride = row_stride(words_of(matrix.length, pairs));
    gather_rows(tokens.call.rows, begin, end - begin, matrix.length, pairs, tokens.gathered, stride);
    float quads[FEW_ROWS][4];
    int64_t end_column = tokens.first_column + tokens.width;
    if (end_column > matrix.columns) end_column = matrix.columns;
    for (int64_t column = tokens.first_column; column < end_column; column += 4) {
        const char* columns[4];
        four_columns(matrix, expert, column, end_column, columns);
        dot(tokens.gathered, stride, end - begin, columns, matrix.type, matrix.length, pairs, quads);
        for (int64_t row = begin; row < end; ++row) {
            float* target = tokens.of_row(row) + column - tokens.first_column;
            for (int c = 0; c < 4; ++c) target[c] += quads[row - begin][c];
        }
    }
}

static void add_many_rows(const TokenSums& tokens, int64_t expert, int64_t begin, int64_t end) {
    const TokensFromRows& call = tokens.call;
    const Matrix& matrix = call.matrix;
    const int64_t words = words_of(matrix.length, call.pairs), panel_words = words * PANEL;
    float sums[MOESAIC_MAX_ROWS * PANEL] __attribute__((aligned(64)));
    for (int64_t panel = 0; panel < tokens.num_panels; ++panel)
        pack_panel(matrix, expert, tokens.first_column + panel * PANEL, call.pairs, tokens.packed + panel * panel_words);
    Ahead ahead;
    for (int half = 0; half < 2 * tokens.num_panels && expert + 1 < call.num_experts; ++half)
        ahead.add(matrix, expert + 1, tokens.first_column + half * 16);
    // Rows that are words already are read where they are.
    const bool are_words = call.pairs ? call.rows.type == BFLOAT16 && matrix.length % 2 == 0 && call.rows.stride % 2 == 0
                                      : call.rows.type == FLOAT32;
    const int64_t stride = !are_words ? row_stride(words) : call.pairs ? call.rows.stride / 2 : call.rows.stride;
    for (int64_t count; begin < end; begin += count) {
        count = end - begin < ROWS_AT_ONCE ? end - begin : ROWS_AT_ONCE;
        const uint32_t* left = are_words ? (const uint32_t*)call.rows.row(begin) : tokens.gathered;
        if (!are_words) gather_rows(call.rows, begin, count, matrix.length, call.pairs, tokens.gathered, stride);
        for (int64_t row = 0, rows; row < count; row += rows) {
            rows = group_rows(count - row);
            MultiplyPanel multiply = choose_kernel(rows, call.pairs, true);
            for (int64_t panel = 0; panel < tokens.num_panels; ++panel) {
                int64_t step = 64;
                // The first of several panels fetches the rows of the next group, the others weights.
                const bool fetch_rows = are_words && panel == 0 && tokens.num_panels > 1;
                const char* lines = fetch_rows ? (const char*)(left + (row + rows) * stride) : ahead.take(words, step);
                multiply(left + row * stride, stride, tokens.packed + panel * panel_words, words, sums, lines, step);
                for (int64_t r = 0; r < rows; ++r) {
                    f32x16_any* target = (f32x16_any*)(tokens.of_row(begin + row + r) + panel * PANEL);
                    f32x16_any* sum = (f32x16_any*)(sums + r * PANEL);
                    target[0] += sum[0];
                    target[1] += sum[1];
                }
            }
        }
    }
}

// One task owns some columns of some tokens: nobody else adds to them, and it adds in the order of experts, so the
// result does not depend on how tasks fall to threads.
static void tokens_from_rows_task(const TokensFromRows& call, const TokenTask& task) {
    Arena& arena = this_thread_arena();
    arena.reset();
    const Matrix& matrix = call.matrix;
    const int64_t num_tokens = task.end_token - task.first_token, num_panels = task.end_panel - task.first_panel;
    const int64_t first_column = task.first_panel * PANEL, width = num_panels * PANEL;
    TokenSums tokens{call,
                     task,
                     first_column,
                     num_panels,
                     width,
                     arena.take<float>(num_tokens * width),
                     arena.take<uint32_t>(words_of(matrix.length, call.pairs) * width),
                     arena.take<uint32_t>(ROWS_AT_ONCE * row_stride(words_of(matrix.length, false)))};
    __builtin_memset(tokens.sums, 0, num_tokens * width * sizeof(float));
    for (int64_t expert = 0; expert < call.num_experts; ++expert) {
        const int64_t begin = call.first_row_of_token(expert, task.first_token);
        const int64_t end = call.first_row_of_token(expert, task.end_token);
        if (begin == end) continue;
        const bool few = end - begin <= FEW_ROWS && matrix.sum_stride == 1;
        (few ? add_few_rows : add_many_rows)(tokens, expert, begin, end);
    }
    for (int64_t token = 0; token < num_tokens; ++token)
        for (int64_t column = 0; column < width; column += 16) {
            const int64_t place = (task.first_token + token) * matrix.columns + first_column + column;
            store_part(*(f32x16_any*)(tokens.sums + token * width + column),
                       call.tokens_out + place * size_of(call.token_type), call.token_type,
                       matrix.columns - first_column - column);
        }
}

// ---------------------------------------------------------------------------------------------- weight gradients

// What was written past the cache is visible to other threads when a task is done.
static void finish_writes() {
#if defined(MOESAIC_HAS_AVX512)
    _mm_sfence();
#endif
}

// gradient[m][n] = sum over an expert's rows of left[row][m] * right[row][n], for some m and all n.
static void weight_gradient_task(const WeightGradient& call, const GradientTask& task) {
    const int size = size_of(call.type);
    char* out = call.gradients[task.expert];
    const int64_t begin = call.offsets[task.expert], rows = call.offsets[task.expert + 1] - begin;
    if (rows == 0) {
        __builtin_memset(out + task.first_left * call.num_right * size, 0,
                         (task.end_left - task.first_left) * call.num_right * size);
        return;
    }
    Arena& arena = this_thread_arena();
    arena.reset();
    const bool pairs = call.pairs;
    // Stores past the cache need whole cache lines.
    const bool past_cache = call.past_cache && (uintptr_t)out % 64 == 0 && call.num_right * size % 64 == 0;
    const int64_t words = words_of(rows, pairs), left_columns = (task.end_left - task.first_left + 31) / 32 * 32;
    const int64_t panel_words = words * PANEL, together = panels_together(panel_words);
    uint32_t* left = arena.take<uint32_t>(words * left_columns);
    uint32_t* packed = arena.take<uint32_t>(panel_words * together);
    float sums[MOESAIC_MAX_ROWS * PANEL] __attribute__((aligned(64)));
    for (int64_t column = 0; column < left_columns; column += PANEL)
        pack_two_columns(call.left, begin, rows, task.first_left + column, task.end_left - task.first_left - column, pairs,
                         left + column, left_columns);
    for (int64_t first = 0; first < call.num_right; first += together * PANEL) {
        int64_t count = 0;
        for (; count < together && first + count * PANEL < call.num_right; ++count)
            pack_two_columns(call.right, begin, rows, first + count * PANEL, call.num_right - first - count * PANEL, pairs,
                             packed + count * panel_words, PANEL);
        for (int64_t m = task.first_left, step; m < task.end_left; m += step) {
            step = group_rows(task.end_left - m);
            MultiplyPanel multiply = choose_kernel(step, pairs, false);
            MultiplyPanelInto multiply_into = choose_kernel_into(step, pairs);
            for (int64_t panel = 0; panel < count; ++panel) {
                const int64_t column = first + panel * PANEL, columns = call.num_right - column;
                const uint32_t* columns_of_left = left + (m - task.first_left);
                char* target = out + (m * call.num_right + column) * size;
                if (words <= PIECE && columns >= PANEL) {
                    multiply_into(columns_of_left, left_columns, packed + panel * panel_words, words, target,
                                  call.num_right * size, call.type, past_cache);
                    continue;
                }
                multiply(columns_of_left, left_columns, packed + panel * panel_words, words, sums, nullptr, 0);
                for (int64_t r = 0; r < step; ++r, target += call.num_right * size) {
                    f32x16_any* sum = (f32x16_any*)(sums + r * PANEL);
                    store_part(sum[0], target, call.type, columns);
                    store_part(sum[1], target + 16 * size, call.type, columns - 16);
                }
            }
        }
    }
    finish_writes();
}

const Kernels kernels = {rows_from_tokens_task, tokens_from_rows_task, weight_gradient_task};
#undef INLINE
