import { mount } from "svelte";
import App from "./App.svelte";
import "./app.css";

const target = document.getElementById("app")!;
target.textContent = ""; // what is seen until the record has been read
export default mount(App, { target });
