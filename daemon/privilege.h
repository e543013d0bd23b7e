/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Leaves this process (and the workers, which are forked from it) nothing but the capabilities that cloning needs, and makes
 * it non-dumpable, so that no process of the same user can trace it and ride on them. What is missing is logged; a
 * negative errno, logged, where the kernel refuses.
 */
int privilege_drop(void);
