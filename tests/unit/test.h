/* cmocka with the includes it wants, in the order it wants them. */
#ifndef PGHERALD_TEST_H
#define PGHERALD_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka comes last */
#include <cmocka.h>

#endif
