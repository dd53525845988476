import type { Session } from "./state.svelte";

/** Move the selection by a key; return whether it is one that moves it. */
export function steer(session: Session, event: KeyboardEvent): boolean {
  const target = event.target as HTMLElement;
  if (!session.record || event.ctrlKey || event.metaKey || event.altKey) return false;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return false;
  const { attention } = session;
  const move: Record<string, () => void> = {
    ArrowUp: () => session.pin(Math.max(0, session.i - 1), session.j),
    ArrowDown: () => session.pin(Math.min(session.queries.length - 1, session.i + 1), session.j),
    ArrowLeft: () => (session.j = Math.max(0, session.j - 1)),
    ArrowRight: () => (session.j = Math.min(session.keys.length - 1, session.j + 1)),
    "[": () => session.focus(session.a, (session.h + attention.heads - 1) % attention.heads),
    "]": () => session.focus(session.a, (session.h + 1) % attention.heads),
    "{": () => session.focus(Math.max(0, session.a - 1), session.h),
    "}": () => session.focus(session.a + 1, session.h),
    ",": () => session.pinStep(Math.max(0, session.s - 1)),
    ".": () => session.pinStep(Math.max(0, Math.min(session.header.output.steps.length - 1, session.s + 1))),
    x: () => session.live && session.toggleAblated(session.a, session.h),
  };
  if (!move[event.key]) return false;
  event.preventDefault();
  session.hover = { i: -1, j: -1 };
  move[event.key]();
  return true;
}
