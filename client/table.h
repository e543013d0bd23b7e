/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <libsmartcols.h>
#include <stdbool.h>
#include <stddef.h>

#include "client/verb.h"

/* What a cell's text means; a colour on a terminal, nothing elsewhere. */
typedef enum TableMood {
        TABLE_PLAIN,
        TABLE_GOOD,
        TABLE_WAITS,
        TABLE_BAD,
} TableMood;

typedef struct TableColumn {
        const char *title; /* no column is narrower than it, blanks included: so lines that come later fit under those before */
        bool right;     /* aligned */
        bool mood;      /* the line's mood is to be seen here */
} TableColumn;

extern gboolean table_no_legend;

/* An option for tables, to be put into a verb's table of them. */
#define LEGEND_OPTION {"no-legend", 0, 0, G_OPTION_ARG_NONE, &table_no_legend, "Do not print the heading of a table", NULL}

/* NULL where there is no memory. To be freed with table_finish(). */
struct libscols_table *table_new(const TableColumn *columns, size_t n);

/* Adds a line of as many cells as there are columns, which are copied. */
bool table_add(struct libscols_table *table, const char *const *cells, const TableColumn *columns, size_t n, TableMood mood);

/* Prints the lines that are in it and removes them: under a heading, the first time. */
bool table_flush(struct libscols_table *table);

/* Prints the table, unless @failed, and frees it; NULL is a failure. */
ClientExit table_finish(struct libscols_table *table, bool failed);

/* Whether stdout is a terminal that shows colours, and nobody asked for none (https://no-color.org). */
bool table_colors(void);
