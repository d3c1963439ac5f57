/* Decimals as bytes and as doubles, and base64. The bytes were computed with Python. */
#include "test.h"

#include "base/base64.h"
#include "base/decimal.h"

#include <locale.h>

static struct strbuf out;

static void test_unscaled(void **state)
{
	static const struct {
		const char *text;
		const char *base64;
		uint32_t scale;
	} rows[] = {
		{ "0", "AA==", 0 },
		{ "0.00", "AA==", 2 },
		{ "-0", "AA==", 0 },
		{ "127", "fw==", 0 },
		{ "128", "AIA=", 0 },
		{ "-128", "gA==", 0 },
		{ "-129", "/38=", 0 },
		{ "255", "AP8=", 0 },
		{ "256", "AQA=", 0 },
		{ "10.20", "A/w=", 2 },
		{ "-12.340", "z8w=", 3 },
		{ ".5", "BQ==", 1 },
		{ "4294967296", "AQAAAAA=", 0 },
		{ "-4294967296", "/wAAAAA=", 0 },
		{ "-2147483648", "gAAAAA==", 0 },
		{ "-12345678901234567890.123450", "9cmzZ92BVZUjRUY=", 6 },
		{ "-0.000000000000000000001", "/w==", 21 },
		{ "999999999999999999999999999999999999999999999999999999999999",
		  "AJ9PJyYXmiJFAddiQiyUZZDZD/////////8=", 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t scale = 99;

		out.n = 0;
		strbuf_ch(&out, '=');
		assert_true(decimal_base64(&out, str_c(rows[i].text)));
		assert_string_equal(strbuf_cstr(&out) + 1, rows[i].base64);
		assert_true(decimal_scale(str_c(rows[i].text), &scale));
		assert_int_equal(scale, rows[i].scale);
	}
}

/* 2^200000 - 1 would be 25000 bytes of ones; 10^n ends in n zero bits: both ends of a long number
 * are checked without another implementation of long numbers. */
static void test_long(void **state)
{
	struct strbuf text = { 0 };

	strbuf_lit(&text, "1");
	for (int i = 0; i < 24000; i++)
		strbuf_ch(&text, '0');
	out.n = 0;
	assert_true(decimal_base64(&out, strbuf_view(&text)));
	/* 24000 zero bits are 3000 bytes, 4000 characters of base64 whose start is not aligned to
	 * them: all but the first few are A. 10^24000 has 79727 bits, 9966 bytes. */
	assert_int_equal(out.n, (9966 + 2) / 3 * 4);
	for (size_t i = out.n - 3990; i < out.n; i++)
		assert_int_equal(out.p[i], 'A');
	assert_int_not_equal(out.p[out.n - 4001], 'A');
	strbuf_release(&text);
}

static void test_no_decimals(void **state)
{
	static const char *const texts[] = { "",      "-",  ".",   "NaN", "Infinity", "1e5",
					     "1.2.3", "+1", "--1", " 1",  "0x1" };
	uint32_t scale;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		out.n = 0;
		if (decimal_scale(str_c(texts[i]), &scale) || decimal_base64(&out, str_c(texts[i])))
			fail_msg("\"%s\" was read as a decimal", texts[i]);
		assert_int_equal(out.n, 0);
	}
}

static void test_doubles(void **state)
{
	static const char *const rows[][2] = {
		{ "0", "0.0" },
		{ "-0", "-0.0" },
		{ "10.20", "10.2" },
		{ "0.1", "0.1" },
		{ "0.30000000000000004", "0.30000000000000004" },
		{ "123456789012345678", "1.2345678901234568e+17" },
		{ "1e-5", "1e-05" },
		{ "9007199254740993", "9007199254740992.0" },
		{ "NaN", "\"NaN\"" },
		{ "-Infinity", "\"-Infinity\"" },
		{ "1e400", "\"Infinity\"" },
	};
	double v;

	/* where the system has such a locale, a comma as the point must not matter */
	setlocale(LC_ALL, "de_DE.UTF-8");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		out.n = 0;
		assert_true(decimal_double(&out, str_c(rows[i][0]), &v));
		assert_int_equal(out.n, 0);
		decimal_print(&out, v);
		assert_string_equal(strbuf_cstr(&out), rows[i][1]);
	}
	setlocale(LC_ALL, "C");
	assert_false(decimal_double(&out, STR(""), &v));
	assert_false(decimal_double(&out, STR("1,5"), &v));
	assert_false(decimal_double(&out, STR("1 "), &v));
}

static void test_base64(void **state)
{
	/* RFC 4648, section 10 */
	static const char *const rows[][3] = {
		{ "", "", "" },
		{ "f", "66", "Zg==" },
		{ "fo", "666f", "Zm8=" },
		{ "foo", "666F6f", "Zm9v" },
		{ "foob", "666f6f62", "Zm9vYg==" },
		{ "fooba", "666f6f6261", "Zm9vYmE=" },
		{ "foobar", "666f6f626172", "Zm9vYmFy" },
		{ "\xfb\xff\xfe", "fbfffe", "+//+" },
	};
	static const char *const bad[] = { "6", "6g", "g6", "666", "66 6", "6\xff" };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		out.n = 0;
		base64_encode(&out, str_c(rows[i][0]));
		strbuf_ch(&out, '|');
		assert_true(base64_encode_hex(&out, str_c(rows[i][1])));
		assert_int_equal(out.n, 2 * strlen(rows[i][2]) + 1);
		assert_memory_equal(out.p, rows[i][2], strlen(rows[i][2]));
		assert_string_equal(strchr(strbuf_cstr(&out), '|') + 1, rows[i][2]);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		out.n = 0;
		assert_false(base64_encode_hex(&out, str_c(bad[i])));
		assert_int_equal(out.n, 0);
	}
}

static int release(void **state)
{
	strbuf_release(&out);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unscaled),    cmocka_unit_test(test_long),
		cmocka_unit_test(test_no_decimals), cmocka_unit_test(test_doubles),
		cmocka_unit_test(test_base64),
	};

	return cmocka_run_group_tests_name("decimal", tests, NULL, release);
}
