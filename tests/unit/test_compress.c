/* Messages come out as they went in, and what is no message is refused. */
#include "test.h"

#include "base/compress.h"
#include "base/mem.h"

static const char *const names[] = { "brotli", "gzip", "zstd" };

#define MOST (16u << 20)

static void round_trip(struct compressor *c, struct str message)
{
	struct str encoding = str_c(compressor_encoding(c));
	struct strbuf packed = { 0 }, out = { 0 };
	struct err err = { 0 };

	strbuf_lit(&packed, "before"); /* it is appended */
	compress_message(c, message, &packed);
	assert_int_equal(
		decompress_message(encoding, strbuf_since(&packed, 6), message.n, &out, &err), 0);
	assert_true(str_eq(strbuf_view(&out), message));

	/* not a byte more than allowed, and nothing of a torn one */
	if (message.n)
		assert_int_equal(decompress_message(encoding, strbuf_since(&packed, 6),
						    message.n - 1, &out, &err),
				 -1);
	packed.n--;
	assert_int_equal(decompress_message(encoding, strbuf_since(&packed, 6), MOST, &out, &err),
			 -1);
	assert_int_equal(out.n, message.n);
	assert_non_null(strstr(err.msg, "this is not"));
	strbuf_release(&packed);
	strbuf_release(&out);
}

static void test_round_trips(void **state)
{
	struct strbuf big = { 0 };
	uint32_t noise = 1;

	for (size_t i = 0; i < 1000000; i++) {
		noise = noise * 1664525 + 1013904223;
		strbuf_ch(&big, (char)(i < 500000 ? 'x' : noise >> 24));
	}
	for (size_t i = 0; i < 3; i++) {
		struct compressor *c = compressor_new(names[i]);

		for (int again = 0; again < 2; again++) { /* the state is used again */
			round_trip(c, STR(""));
			round_trip(c, STR("{\"id\":1}"));
			round_trip(c, strbuf_view(&big));
		}
		compressor_free(c);
	}
	strbuf_release(&big);
}

static void test_malformed(void **state)
{
	static const struct str bad[] = { STR(""), STR("{\"id\":1}"), STR("\x1f\x8b\x08\0\0"),
					  STR("\x28\xb5\x2f\xfd\xff"), STR("\0\0\0\0\0") };
	struct strbuf out = { 0 };
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(decompress_message(STR("br"), bad[i], MOST, &out, &err), -1);
		assert_int_equal(decompress_message(STR("gzip"), bad[i], MOST, &out, &err), -1);
		assert_int_equal(decompress_message(STR("zstd"), bad[i], MOST, &out, &err), -1);
		assert_int_equal(decompress_message(STR("lz4"), bad[i], MOST, &out, &err), -1);
	}
	strbuf_release(&out);
}

static void test_names(void **state)
{
	assert_null(compressor_new("none"));
	assert_null(compressor_new(NULL));
	compressor_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
