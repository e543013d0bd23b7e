/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/engine/engine.h"

/*
 * The ptrace engine's clone() for spec->tree. All processes are stopped until no new one is found, so that all stand still at one
 * instant. The root is cloned as any process. Who is to be a child of the root's clone can only come from a clone(2) that
 * the root's clone calls: each other process' clone is a fork of its parent's clone, in which then everything is replaced by what was read
 * of the process, or asked of it, while it stood still. The tree goes on before that work is done.
 *
 * If this process is killed at any point the tree goes on untouched, and every clone dies.
 */
int ptrace_tree_clone(Target *target, const CloneSpec *spec, const EngineHandler *handler, EngineResult *ret, CloneError *error);
