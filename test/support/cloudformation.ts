/**
 * CloudFormation templates without an account: read, evaluated for given parameters, and compared with the published
 * resource types. Knows the functions that our templates use, and no others. What it returns are faults, one line each.
 */
import type { PropertyType, Resource, ResourceProperties, SpecDatabase } from '@aws-cdk/service-spec-types';
import { parse, type CollectionTag, type ScalarTag } from 'yaml';

export interface Parameter {
  readonly Type: string;
  readonly Default?: string | number;
  readonly AllowedValues?: readonly (string | number)[];
  readonly AllowedPattern?: string;
  readonly NoEcho?: boolean;
}
export interface TemplateResource {
  readonly Type: string;
  readonly Condition?: string;
  readonly DependsOn?: string | readonly string[];
  readonly DeletionPolicy?: string;
  readonly UpdateReplacePolicy?: string;
  readonly Properties?: Readonly<Record<string, unknown>>;
}
export interface Template {
  readonly Parameters: Readonly<Record<string, Parameter>>;
  readonly Metadata: {
    readonly 'AWS::CloudFormation::Interface': {
      readonly ParameterGroups: readonly { readonly Parameters: readonly string[] }[];
      readonly ParameterLabels: Readonly<Record<string, unknown>>;
    };
  };
  readonly Mappings?: Readonly<Record<string, Record<string, Record<string, unknown>>>>;
  readonly Rules?: Readonly<
    Record<string, { readonly RuleCondition: unknown; readonly Assertions: readonly { readonly Assert: unknown }[] }>
  >;
  readonly Conditions: Readonly<Record<string, unknown>>;
  readonly Resources: Readonly<Record<string, TemplateResource>>;
  readonly Outputs: Readonly<Record<string, { readonly Description: string; readonly Value: unknown }>>;
}

const FUNCTIONS = ['Join', 'Select', 'Split', 'Sub', 'If', 'Equals', 'Not', 'And', 'Or', 'FindInMap', 'GetAtt'];

const longForm = (name: string, value: unknown): unknown => {
  if (name === 'Ref' || name === 'Condition') return { [name]: value };
  if (name !== 'GetAtt' || typeof value !== 'string') return { [`Fn::${name}`]: value };
  const dot = value.indexOf('.');
  return { 'Fn::GetAtt': [value.slice(0, dot), value.slice(dot + 1)] };
};

/** Throws on a tag or a key of the wrong kind. */
export const parseTemplate = (text: string): Template => {
  const customTags = ['Ref', 'Condition', ...FUNCTIONS].flatMap((name): (ScalarTag | CollectionTag)[] => [
    { tag: `!${name}`, resolve: (value: string) => longForm(name, value) },
    {
      tag: `!${name}`,
      collection: 'seq',
      resolve: (node) => {
        const value = (node as { toJSON(): unknown }).toJSON();
        return longForm(name, value);
      },
    },
  ]);
  return parse(text, { customTags, strict: true }) as Template;
};

const PSEUDO: Readonly<Record<string, string>> = {
  'AWS::StackName': 'stack',
  'AWS::Region': 'eu-central-1',
  'AWS::Partition': 'aws',
  'AWS::URLSuffix': 'amazonaws.com',
  'AWS::AccountId': '123456789012',
};
const NO_VALUE = Symbol('AWS::NoValue');
/** What only a deployment would know is written as `<Name.Attribute>`. */
const later = (text: string): string => `<${text}>`;
const isLater = (value: unknown): boolean => typeof value === 'string' && /<[\w.]+>/.test(value);

export interface Stack {
  readonly resources: Readonly<Record<string, TemplateResource>>;
  readonly outputs: Readonly<Record<string, unknown>>;
  /** Rules that the parameters break. */
  readonly refusals: readonly string[];
  readonly faults: readonly string[];
}

export type Values = Readonly<Record<string, string | number | readonly string[]>>;

/** Of a text that is known only when the stack is there. */
const PIECES = [0, 1, 2] as const;

/** The functions of the template, for one set of parameters. */
const createEvaluator = (template: Template, values: Values, spec: SpecDatabase, faults: string[]) => {
  const conditions = new Map<string, boolean>();
  const isMade = (resource: TemplateResource): boolean =>
    resource.Condition === undefined || condition(resource.Condition);

  const condition = (name: string): boolean => {
    const known = conditions.get(name);
    if (known !== undefined) return known;
    if (!Object.hasOwn(template.Conditions, name)) throw new Error(`there is no condition ${name}`);
    const result = evaluate(template.Conditions[name]) === true;
    conditions.set(name, result);
    return result;
  };

  const madeResource = (name: string): TemplateResource => {
    const resource = template.Resources[name];
    if (!resource) throw new Error(`there is no parameter or resource ${name}`);
    if (!isMade(resource)) throw new Error(`${name} is not made under these conditions`);
    return resource;
  };
  const reference = (name: string): unknown => {
    if (name === 'AWS::NoValue') return NO_VALUE;
    if (Object.hasOwn(PSEUDO, name)) return PSEUDO[name];
    if (Object.hasOwn(template.Parameters, name)) return values[name] ?? template.Parameters[name]?.Default;
    madeResource(name);
    return later(name);
  };
  const attribute = (name: string, attributeName: string): string | string[] => {
    const type = resourceType(spec, madeResource(name).Type);
    if (!type || !Object.hasOwn(type.attributes, attributeName))
      throw new Error(`${name} has no attribute ${attributeName}`);
    const value = later(`${name}.${attributeName}`);
    return type.attributes[attributeName]?.type.type === 'array' ? [value] : value;
  };
  const substitute = (text: string): string =>
    text.replace(/\$\{([^!}]+)\}/g, (_, name: string) => {
      const dot = name.indexOf('.');
      return String(dot < 0 ? reference(name) : attribute(name.slice(0, dot), name.slice(dot + 1)));
    });

  const call = (name: string, argument: unknown): unknown => {
    if (name === 'Fn::If') {
      const [which, yes, no] = argument as [string, unknown, unknown];
      return evaluate(condition(which) ? yes : no);
    }
    if (name === 'Fn::Sub') return substitute(argument as string);
    if (name === 'Fn::GetAtt') return attribute(...(argument as [string, string]));
    const given = (evaluate(argument) ?? []) as unknown[];
    if (name === 'Fn::Equals') return given[0] === given[1];
    if (name === 'Fn::Not') return given[0] === false;
    if (name === 'Fn::And') return given.every((each) => each === true);
    if (name === 'Fn::Or') return given.some((each) => each === true);
    if (name === 'Fn::Join') return (given[1] as unknown[]).map(String).join(given[0] as string);
    if (name === 'Fn::Split') {
      const [separator = '', text = ''] = given as string[];
      // What is known only later has as many parts as are asked for.
      return /^<.*>$/.test(text) ? PIECES.map((piece) => `${text}[${piece}]`) : text.split(separator);
    }
    if (name === 'Fn::Select') {
      const [index = 0, list = []] = given as [number, unknown[]];
      if (index >= list.length) throw new Error(`Fn::Select ${index} of ${list.length}`);
      return list[index];
    }
    if (name === 'Fn::FindInMap') {
      const [map = '', top = '', second = ''] = given as string[];
      const found = template.Mappings?.[map]?.[top]?.[second];
      if (found === undefined) throw new Error(`Fn::FindInMap ${given.join(', ')}`);
      return found;
    }
    throw new Error(`${name} is not known here`);
  };

  const evaluate = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(evaluate).filter((each) => each !== NO_VALUE);
    if (typeof value !== 'object' || value === null) return value;
    const entries = Object.entries(value);
    const [first, argument] = entries[0] ?? [];
    if (entries.length === 1 && first === 'Ref') return reference(argument as string);
    if (entries.length === 1 && first === 'Condition' && typeof argument === 'string') return condition(argument);
    if (entries.length === 1 && first?.startsWith('Fn::')) return call(first, argument);
    return Object.fromEntries(
      entries.map(([key, each]) => [key, evaluate(each)] as const).filter(([, each]) => each !== NO_VALUE),
    );
  };
  const attempt = (place: string, value: unknown): unknown => {
    try {
      return evaluate(value);
    } catch (error) {
      faults.push(`${place}: ${(error as Error).message}`);
      return undefined;
    }
  };
  return { attempt, condition, isMade };
};

const resourceType = (spec: SpecDatabase, type: string): Resource | undefined =>
  spec.lookup('resource', 'cloudFormationType', 'equals', type)[0];

const parameterFaults = (template: Template, values: Values): string[] =>
  Object.entries(template.Parameters).flatMap(([name, { Default, AllowedValues, AllowedPattern }]) => {
    const value = values[name] ?? Default;
    if (value === undefined) return [`parameter ${name} has no value`];
    if (AllowedValues && !AllowedValues.includes(value as string))
      return [`parameter ${name}: ${String(value)} is not allowed`];
    const isFit = AllowedPattern === undefined || new RegExp(AllowedPattern).test(String(value));
    return isFit ? [] : [`parameter ${name}: ${String(value)} does not fit its pattern`];
  });

/** What a deployment with these parameters would be made of. */
export const evaluateTemplate = (spec: SpecDatabase, template: Template, values: Values): Stack => {
  const faults = parameterFaults(template, values);
  for (const name of Object.keys(values))
    if (!Object.hasOwn(template.Parameters, name)) faults.push(`there is no parameter ${name}`);
  const { attempt, isMade } = createEvaluator(template, values, spec, faults);
  for (const [name, value] of Object.entries(template.Conditions)) attempt(`condition ${name}`, value);
  const resources: Record<string, TemplateResource> = {};
  for (const [name, resource] of Object.entries(template.Resources)) {
    if (resource.Condition !== undefined && !Object.hasOwn(template.Conditions, resource.Condition)) {
      faults.push(`${name}: there is no condition ${resource.Condition}`);
      continue;
    }
    if (!isMade(resource)) continue;
    const Properties = attempt(name, resource.Properties ?? {}) as Record<string, unknown>;
    resources[name] = { ...resource, Properties };
    for (const key of Object.keys(resource)) if (!RESOURCE_KEYS.has(key)) faults.push(`${name}.${key} is not known`);
    for (const needed of [resource.DependsOn ?? []].flat())
      if (!Object.hasOwn(template.Resources, needed)) faults.push(`${name} depends on ${needed}, which is not there`);
    const type = resourceType(spec, resource.Type);
    if (type) faults.push(...propertyFaults(spec, name, type.properties, Properties));
    else faults.push(`${name}: there is no type ${resource.Type}`);
  }
  const outputs = Object.fromEntries(
    Object.entries(template.Outputs).map(([name, { Value }]) => [name, attempt(`output ${name}`, Value)]),
  );
  const refusals = Object.entries(template.Rules ?? {}).flatMap(([name, { RuleCondition, Assertions }]) =>
    attempt(name, RuleCondition) === true && Assertions.some(({ Assert }) => attempt(name, Assert) !== true)
      ? [name]
      : [],
  );
  return { resources, outputs, refusals, faults };
};

const RESOURCE_KEYS: ReadonlySet<string> = new Set([
  'Type',
  'Condition',
  'DependsOn',
  'DeletionPolicy',
  'UpdateReplacePolicy',
  'Properties',
]);

const propertyFaults = (
  spec: SpecDatabase,
  place: string,
  properties: ResourceProperties,
  value: unknown,
): string[] => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [`${place} is no object`];
  const given = value as Record<string, unknown>;
  const missing = Object.entries(properties)
    .filter(([name, { required }]) => required === true && !Object.hasOwn(given, name))
    .map(([name]) => `${place}.${name} is missing`);
  const wrong = Object.entries(given).flatMap(([name, each]) => {
    const property = properties[name];
    return property ? valueFaults(spec, `${place}.${name}`, property.type, each) : [`${place}.${name} is not known`];
  });
  return [...missing, ...wrong];
};

const scalarFaults = (place: string, type: PropertyType, value: unknown): string[] => {
  const fits =
    type.type === 'boolean'
      ? typeof value === 'boolean'
      : type.type === 'integer'
        ? Number.isInteger(value)
        : type.type === 'number'
          ? typeof value === 'number'
          : typeof value === 'string';
  if (!fits && !isLater(value)) return [`${place} is ${JSON.stringify(value)}, which is no ${type.type}`];
  const allowed = 'allowedValues' in type ? (type.allowedValues as readonly unknown[] | undefined) : undefined;
  return allowed === undefined || isLater(value) || allowed.includes(value)
    ? []
    : [`${place} is ${JSON.stringify(value)}, not one of ${allowed.join(', ')}`];
};

const valueFaults = (spec: SpecDatabase, place: string, type: PropertyType, value: unknown): string[] => {
  switch (type.type) {
    case 'json':
      return typeof value === 'object' && value !== null ? [] : [`${place} is no object`];
    case 'tag':
      return typeof value === 'object' && value !== null && Object.keys(value).sort().join() === 'Key,Value'
        ? []
        : [`${place} is no tag`];
    case 'ref':
      return propertyFaults(spec, place, spec.get('typeDefinition', type.reference).properties, value);
    case 'array':
      if (!Array.isArray(value)) return [`${place} is no list`];
      return value.flatMap((each, index) => valueFaults(spec, `${place}[${index}]`, type.element, each));
    case 'map':
      if (typeof value !== 'object' || value === null) return [`${place} is no map`];
      return Object.entries(value).flatMap(([name, each]) => valueFaults(spec, `${place}.${name}`, type.element, each));
    case 'union': {
      const faults = type.types.map((each) => valueFaults(spec, place, each, value));
      return faults.find((each) => each.length === 0) ?? faults[0] ?? [];
    }
    default:
      return scalarFaults(place, type, value);
  }
};
