/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/table.h"

gboolean table_no_legend;

static const char *const mood_colors[] = {[TABLE_GOOD] = "green", [TABLE_WAITS] = "yellow", [TABLE_BAD] = "red"};

bool table_colors(void)
{
        const char *no_color = g_getenv("NO_COLOR");

        return isatty(STDOUT_FILENO) && g_strcmp0(g_getenv("TERM"), "dumb") != 0 && (!no_color || !*no_color);
}

struct libscols_table *table_new(const TableColumn *columns, size_t n)
{
        struct libscols_table *table = scols_new_table();

        if (!table)
                return NULL;
        (void) scols_table_enable_noheadings(table, table_no_legend);
        (void) scols_table_enable_colors(table, table_colors());

        for (size_t i = 0; i < n; i++) {
                struct libscols_column *c = scols_table_new_column(table, columns[i].title, 0, columns[i].right ? SCOLS_FL_RIGHT : 0);

                if (!c) {
                        scols_unref_table(table);
                        return NULL;
                }
                (void) scols_cell_set_color(scols_column_get_header(c), "\033[4m"); /* underlined, as systemctl has it */
        }
        return table;
}

bool table_add(struct libscols_table *table, const char *const *cells, const TableColumn *columns, size_t n, TableMood mood)
{
        struct libscols_line *line = scols_table_new_line(table, NULL);

        for (size_t i = 0; line && i < n; i++) {
                if (scols_line_set_data(line, i, cells[i]) < 0)
                        return false;
                if (columns[i].mood && mood != TABLE_PLAIN)
                        (void) scols_cell_set_color(scols_line_get_cell(line, i), mood_colors[mood]);
        }
        return line;
}

bool table_flush(struct libscols_table *table)
{
        bool good = scols_print_table(table) >= 0;

        scols_table_remove_lines(table);
        (void) scols_table_enable_noheadings(table, true);
        return good;
}

ClientExit table_finish(struct libscols_table *table, bool failed)
{
        if (table && !failed)
                failed = scols_print_table(table) < 0;
        scols_unref_table(table);
        return failed || !table ? client_error(CLIENT_FAILED, "the table could not be printed") : CLIENT_OK;
}
