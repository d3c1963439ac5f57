#include "base/mem.h"
#include "event/domain.h"
#include "flow/template.h"
#include "test.h"

static struct arena arena;
static struct template template;
static struct err err;
static struct strbuf out;

static int release(void **state)
{
	arena_release(&arena);
	strbuf_release(&out);
	return 0;
}

static bool plain(unsigned char c)
{
	return c > ' ' && c != '.' && c != '%';
}

static const struct address_rule rule = { plain, '%' };

/* users(id, region), key id. */
static struct column columns[] = {
	{ .field.name = STR("id"), .key = true, .primary = true },
	{ .field.name = STR("region") },
};
static struct relation users = {
	.schema = STR("public"), .name = STR("us.ers"), .ncols = 2, .cols = columns
};
static struct source source = { .db = STR("shop"), .name = STR("the shop") };

static struct value text(const char *s)
{
	return (struct value){ s, (uint32_t)strlen(s), s[0] == '-' ? VALUE_NULL : VALUE_TEXT };
}

/* The address of a change: of a delete where there is no new region. */
static const char *render(const char *t, const char *new_region)
{
	struct value new[] = { text("7"), text(new_region ? new_region : "") };
	struct value old[] = { text("6"), text("") };
	struct event e = { .action = new_region ? ACTION_INSERT : ACTION_DELETE,
			   .source = &source,
			   .rel = &users,
			   .new = new_region ? new : NULL,
			   .old = new_region ? NULL : old };

	out.n = 0;
	if (template_parse(&template, &arena, t, &err))
		return err.msg;
	template_render(&template, &e, &rule, &out);
	return strbuf_cstr(&out);
}

static void test_names_are_filled_in(void **state)
{
	assert_string_equal(render("x.{db}.{schema}.{action}", "eu"), "x.shop.public.insert");
	assert_string_equal(render("constant", "eu"), "constant");
	assert_string_equal(render("", "eu"), "");
}

static void test_what_a_destination_forbids_is_escaped(void **state)
{
	assert_string_equal(render("{table}", "eu"), "us%2Eers");
	assert_string_equal(render("{name}", "eu"), "the%20shop");
	assert_string_equal(render("{new.region}", "100%"), "100%25");
	assert_string_equal(render("a.b %", "eu"), "a.b %"); /* what the user wrote stands */
}

static void test_columns_are_filled_in(void **state)
{
	assert_string_equal(render("{new.region}-{key.id}", "eu"), "eu-7");
	assert_string_equal(render("{new.region}-{key.id}", "-"), "%00-7"); /* NULL */
	assert_string_equal(render("{new.region}-{key.id}", ""), "%00-7");
	assert_string_equal(render("{new.id}-{key.id}", NULL), "6-6"); /* the old row's */
	assert_string_equal(render("{new.region}", NULL), "%00");      /* not in the identity */
}

static void test_a_message_has_an_address(void **state)
{
	struct event e = { .action = ACTION_MESSAGE, .source = &source, .prefix = STR("audit") };

	out.n = 0;
	assert_int_equal(template_parse(&template, &arena,
					"{db}.{schema}.{table}.{prefix}.{action}.{new.id}", &err),
			 0);
	template_render(&template, &e, &rule, &out);
	assert_string_equal(strbuf_cstr(&out), "shop.message.audit.audit.message.%00");
}

static void test_a_domain_event_has_an_address(void **state)
{
	const char *t = "{schema}.{table}.{category}.{stream}.{type}.{topic}.{key.stream}";
	struct event e = { .source = &source };
	struct domain d = { 0 };

	for (int i = 0; i < DOMAIN_COLUMNS; i++)
		d.values[i] = text("-");
	d.values[DOMAIN_CATEGORY] = text("order");
	d.values[DOMAIN_STREAM] = text("4.2");
	d.values[DOMAIN_TYPE] = text("Placed");
	assert_true(domain_event(&d, STR("herald"), &e));
	out.n = 0;
	assert_int_equal(template_parse(&template, &arena, t, &err), 0);
	template_render(&template, &e, &rule, &out);
	assert_string_equal(strbuf_cstr(&out), "herald.order.order.4%2E2.Placed.%00.4%2E2");
	assert_int_equal(template_check(&template, e.rel, &err), 0);
	domain_release(&d);
	assert_string_equal(render("{stream}.{type}", "eu"), "%00.%00"); /* a row has none */
}

static void test_what_is_no_template_is_refused(void **state)
{
	static const char *const wrong[] = { "{", "a{db", "{nothing}", "{}", "{new.}", "{old.id}" };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(template_parse(&template, &arena, wrong[i], &err), -1);
	assert_non_null(strstr(err.msg, "{old.id}"));
}

static void test_columns_that_a_table_lacks_are_found(void **state)
{
	assert_int_equal(template_parse(&template, &arena, "{new.region}{key.id}", &err), 0);
	assert_int_equal(template_check(&template, &users, &err), 0);
	assert_int_equal(template_parse(&template, &arena, "{new.country}", &err), 0);
	assert_int_equal(template_check(&template, &users, &err), -1);
	assert_non_null(strstr(err.msg, "country"));
	assert_non_null(strstr(err.msg, "public.us.ers"));
	assert_int_equal(template_parse(&template, &arena, "{key.region}", &err), 0);
	assert_int_equal(template_check(&template, &users, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_are_filled_in),
		cmocka_unit_test(test_what_a_destination_forbids_is_escaped),
		cmocka_unit_test(test_columns_are_filled_in),
		cmocka_unit_test(test_a_message_has_an_address),
		cmocka_unit_test(test_a_domain_event_has_an_address),
		cmocka_unit_test(test_what_is_no_template_is_refused),
		cmocka_unit_test(test_columns_that_a_table_lacks_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, release);
}
