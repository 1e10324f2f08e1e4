import { h } from "./dom.js";

const response = await fetch("health");
const health = await response.json();
document.getElementById("app")?.append(h("p", { role: "status" }, `Version ${health.version} is ${health.status}.`));
