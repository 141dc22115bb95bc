// How deep to think and how to draw tokens: the fields of the page that say so.

const MOST_STEPS = 1024; // that the server takes

const at = (id) => document.getElementById(id);
const [slider, steps, exit, temperature] = ["slider", "steps", "exit", "temperature"].map(at);

/** Offer what a model can do, and its own defaults. */
export function offer({ steps: usual, max_steps: most, exit: rule, rules, temperature: usually }) {
  for (const field of [slider, steps]) {
    field.max = Math.min(most ?? 2 * usual, MOST_STEPS);
    field.value = field.defaultValue = usual;
  }
  exit.replaceChildren(
    new Option(`default (${rule ?? "off"})`, ""),
    ...["off", ...rules].map((name) => new Option(name, name)),
  );
  temperature.placeholder = `default (${usually})`;
  at("settings").disabled = false;
}

/** Return the most core steps that a token may take. */
export function mostSteps() {
  return Number(steps.value);
}

/** Return the part of a request that says all this. */
export function chosen() {
  const drawn = temperature.valueAsNumber;
  return {
    temperature: Number.isNaN(drawn) ? undefined : drawn,
    depth: { max_steps: mostSteps(), exit: exit.value || undefined, changes: true },
  };
}

/** Have a function called when the most steps have changed. */
export function onSteps(changed) {
  slider.addEventListener("input", () => {
    steps.value = slider.value;
    changed();
  });
  steps.addEventListener("change", () => {
    const whole = Math.round(steps.valueAsNumber) || Number(steps.defaultValue);
    steps.value = slider.value = Math.min(Math.max(whole, 1), Number(steps.max));
    changed();
  });
}

temperature.addEventListener("change", () => {
  const given = temperature.valueAsNumber;
  if (!Number.isNaN(given)) {
    temperature.value = Math.min(Math.max(given, 0), Number(temperature.max));
  }
});
